// Multiply-adds and nothing else: sums in registers, one store at the end.
//
// Put in front: Value, CHAINS, the sums of one thread, and STEPS, the multiply-adds of each sum in
// one round.

struct Call {
    Value* y;  // one total for each thread
    Value factor, addend;
    int rounds;
};

extern "C" __global__ void __launch_bounds__(256) peak(const __grid_constant__ Call call)
{
    const Value factor = call.factor, addend = call.addend;
    Value sums[CHAINS];
#pragma unroll
    for (int n = 0; n < CHAINS; ++n) sums[n] = static_cast<Value>(threadIdx.x + n);
#pragma unroll 1
    for (int round = 0; round < call.rounds; ++round) {
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
#pragma unroll
            for (int n = 0; n < CHAINS; ++n) sums[n] = mad(sums[n], factor, addend);
        }
    }
    Value total = 0;
#pragma unroll
    for (int n = 0; n < CHAINS; ++n) total += sums[n];
    call.y[static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x] = total;
}
