// Outputs of tiles with values that a transform spoils, summed directly over what the transform
// left.  A block takes some rows of a tile, and has nothing to do in most tiles.
//
// SLICES, put in front, says into how many blocks the rows of a tile are divided.

static __device__ inline bool is_safe(const Call& call, long long tile)
{
    const unsigned peak = call.peaks[tile];
    return peak == 0 || (peak >= call.low && peak <= call.high);
}

extern "C" __global__ void __launch_bounds__(WARP* WARPS, 2) repair(const __grid_constant__ Call call)
{
    constexpr int LAST = SPATIAL - 1;
    const long long tile = blockIdx.x / SLICES;
    if (tile >= call.tiles || is_safe(call, tile)) return;
    const Place place = place_of(call, tile);
    const Spatial& last = call.spatial[LAST];
    const int lines = call.outputs * call.out_rows;
    for (int line = blockIdx.x % SLICES * WARPS + threadIdx.y; line < lines; line += SLICES * WARPS) {
        int rest = line;
        const int output = digit(rest, call.outputs);
        At at{place.x, 0, {}};
        Value* y = place.y + output * call.y_output;
        bool inside = true;
#pragma unroll
        for (int a = LAST - 1; a >= 0; --a) {
            const Spatial& axis = call.spatial[a];
            const long long i = place.start[a] + digit(rest, call.box[a]);
            inside = inside && i < axis.outputs;
            at.first[a] = i * axis.stride - axis.low;
            y += i * axis.y;
        }
        if (!inside) continue;
        for (int c = threadIdx.x; c < call.box[LAST]; c += WARP) {
            const long long i = place.start[LAST] + c;
            if (i >= last.outputs) break;
            at.first[LAST] = i * last.stride - last.low;
            at.w = place.w + output * call.w_output;
            y[i * last.y] = Convert<Value>::of(sum_of_taps(call, at));
        }
    }
}
