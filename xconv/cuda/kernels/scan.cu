// Whether a value of a result, which lies in one piece of memory, is not finite.
//
// Put in front: EACH, elements that a thread has on their way at a time.

struct Call {
    const Value* y;
    unsigned char* flag;  // set to 1 if so
    long long count;
};

extern "C" __global__ void __launch_bounds__(256) scan(const __grid_constant__ Call call)
{
    const long long step = static_cast<long long>(gridDim.x) * 256 * EACH;
    bool good = true;
    for (long long first = static_cast<long long>(blockIdx.x) * 256 * EACH + threadIdx.x;
         first < call.count; first += step) {
#pragma unroll
        for (int n = 0; n < EACH; ++n)
            if (first + n * 256 < call.count) good = is_finite(call.y[first + n * 256]) && good;
    }
    if (!good) *call.flag = 1;
}
