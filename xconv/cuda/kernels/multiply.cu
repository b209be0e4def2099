// Spectra of tiles times those of the kernels, summed over the channels.
//
// A thread takes one frequency of TILES tiles and OUTPUTS outputs; Sum is complex.
// Put in front: TILES, OUTPUTS.

struct Call {
    const Sum* spectra;      // (tiles, channels, points)
    const Sum* kernels;      // (groups, outputs, channels, points)
    Sum* products;           // (tiles, outputs, points); the spectra themselves where each is one
    long long first, tiles;  // number of the first tile of this call, and how many there are
    long long points;
    long long before;        // tiles from one group to the next
    int channels, outputs, groups;
    int blocks_point, blocks_output;
};

extern "C" __global__ void __launch_bounds__(256) multiply(const __grid_constant__ Call call)
{
    unsigned block = blockIdx.x;
    const long long point = digit<unsigned>(block, call.blocks_point) * 256LL + threadIdx.x;
    const int output = digit<unsigned>(block, call.blocks_output) * OUTPUTS;
    const long long tile = block * static_cast<long long>(TILES);
    if (point >= call.points) return;
    long long group[TILES];
#pragma unroll
    for (int t = 0; t < TILES; ++t)
        group[t] = call.groups == 1 ? 0 : (call.first + tile + t) / call.before % call.groups;
    Sum sum[TILES][OUTPUTS] = {};
    for (int channel = 0; channel < call.channels; ++channel) {
        Sum x[TILES];
#pragma unroll
        for (int t = 0; t < TILES; ++t)
            if (tile + t < call.tiles)
                x[t] = call.spectra[((tile + t) * call.channels + channel) * call.points + point];
#pragma unroll
        for (int o = 0; o < OUTPUTS; ++o) {
            if (output + o >= call.outputs) continue;
            Sum k;
#pragma unroll
            for (int t = 0; t < TILES; ++t) {
                const long long kernel = group[t] * call.outputs + output + o;
                if (t == 0 || group[t] != group[t - 1])
                    k = call.kernels[(kernel * call.channels + channel) * call.points + point];
                sum[t][o] = mad(x[t], k, sum[t][o]);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TILES; ++t)
#pragma unroll
        for (int o = 0; o < OUTPUTS; ++o)
            if (tile + t < call.tiles && output + o < call.outputs)
                call.products[((tile + t) * call.outputs + output + o) * call.points + point]
                    = sum[t][o];
}
