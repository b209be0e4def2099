// One thread per output, for every problem: any number of axes, any strides, 64-bit offsets.
//
// Put in front: Input, Value, Sum, SPATIAL, the number of convolved axes, FILTER, the room for taps
// passed by value (0: they are at `w`), and MEND, whether only results that are not finite are
// summed, and those only if the flag at `skip` is set.

struct Call {
    const Input* x;
    Value* y;
    const Sum* w;               // (groups, outputs, channels, taps...), contiguous
    const unsigned char* skip;  // outputs whose flag is not 0 are left as they are; or null
    long long outputs;
    long long x_channel;
    int channels;
    int outers;
    Outer outer[8];
    Spatial spatial[SPATIAL];
    int order[8 + SPATIAL];  // axes of the result, outer ones first, by the distance in memory
    Sum cval;
    Sum filter[FILTER > 0 ? FILTER : 1];
};

extern "C" __global__ void __launch_bounds__(256) any(const __grid_constant__ Call call)
{
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    long long output = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (MEND && !*call.skip) return;
    for (; output < call.outputs; output += step) {
        At at{call.x, 0, {}};
        Value* y = call.y;
        const unsigned char* skip = call.skip;
        long long rest = output;
        for (int n = 0; n < call.outers + SPATIAL; ++n) {
            const int which = call.order[n];
            if (which < call.outers) {
                const Outer& axis = call.outer[which];
                const long long i = rest % axis.size;
                rest /= axis.size;
                at.x += i * axis.x;
                at.w += i * axis.w;
                y += i * axis.y;
                skip += skip ? i * axis.skip : 0;
            } else {
                const Spatial& axis = call.spatial[which - call.outers];
                const long long i = rest % axis.outputs;
                rest /= axis.outputs;
                at.first[which - call.outers] = i * axis.stride - axis.low;
                y += i * axis.y;
            }
        }
        if (MEND ? is_finite(*y) : skip && *skip) continue;
        *y = Convert<Value>::of(sum_of_taps(call, at));
    }
}
