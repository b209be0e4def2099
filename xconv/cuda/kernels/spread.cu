// Taps into planes: turned around, dilated, with 0s behind them.

struct Call {
    const Sum* w;  // taps (kernels, taps...), contiguous
    Sum* planes;
    long long kernels;  // planes behind these are 0
    int pitch, plane;   // elements of a row and of a plane
    int parts;          // blocks for each plane
    int length[SPATIAL], count[SPATIAL], dilation[SPATIAL];
    Sum filter[FILTER > 0 ? FILTER : 1];  // the taps, where they are passed by value
};

extern "C" __global__ void __launch_bounds__(256) spread(const __grid_constant__ Call call)
{
    unsigned block = blockIdx.x;
    const int element = digit<unsigned>(block, call.parts) * 256 + threadIdx.x;
    if (element >= call.plane) return;
    bool tap = block < call.kernels;
    long long at = 0, step = 1;
    int rest = element;
#pragma unroll
    for (int a = SPATIAL - 1; a >= 0; --a) {
        const int c = digit(rest, a == SPATIAL - 1 ? call.pitch : call.length[a]);
        const int t = c / call.dilation[a];
        tap = tap && t < call.count[a] && t * call.dilation[a] == c;
        at += (call.count[a] - 1 - t) * step;
        step *= call.count[a];
    }
    call.planes[block * static_cast<long long>(call.plane) + element]
        = tap ? tap_at(call, block * step + at) : Sum{};
}
