// Spectra of the rows of tiles times those of the kernel's rows, summed down the rows: what
// multiply.cu does where only rows are transformed.
//
// A thread takes one frequency of a tile from the last rows up, ROWS of them and TAPS taps at a
// time; Sum is complex.  A sum takes the place of the last row under it, which none above needs.
// Put in front: ROWS, TAPS, CHUNKS (of taps).

struct Call {
    const Sum* spectra;      // (tiles, rows, points)
    const Sum* kernels;      // (groups, taps, points), the last tap first
    Sum* products;           // the spectra themselves
    long long first, tiles;  // number of the first tile of this call, and how many there are
    long long points;        // of a row
    long long before;        // tiles from one group to the next
    int rows, taps, groups;
    int blocks_point;
};

static __device__ inline void load(const Call& call, const Sum* taps, int first, Sum* k)
{
#pragma unroll
    for (int t = 0; t < TAPS; ++t)
        k[t] = first + t < call.taps ? taps[(call.taps - 1 - first - t) * call.points] : Sum{};
}

extern "C" __global__ void __launch_bounds__(128) rows(const __grid_constant__ Call call)
{
    unsigned block = blockIdx.x;
    const long long point = digit<unsigned>(block, call.blocks_point) * 128LL + threadIdx.x;
    if (point >= call.points || block >= call.tiles) return;
    const long long group = call.groups == 1 ? 0 : (call.first + block) / call.before % call.groups;
    const long long column = block * call.rows * call.points + point;
    const Sum* const taps = call.kernels + group * call.taps * call.points + point;
    const int outputs = call.rows - call.taps + 1;
    Sum k[TAPS];
    if (CHUNKS == 1) load(call, taps, 0, k);
#pragma unroll 1
    for (int top = (outputs - 1) / ROWS * ROWS; top >= 0; top -= ROWS) {
        Sum sum[ROWS] = {};
#pragma unroll 1
        for (int chunk = 0; chunk < CHUNKS * TAPS; chunk += TAPS) {
            if (CHUNKS > 1) load(call, taps, chunk, k);
            const Sum* from = call.spectra + column + (top + chunk) * call.points;
#pragma unroll
            for (int j = 0; j < ROWS + TAPS - 1; ++j) {
                const Sum x = top + chunk + j < call.rows ? from[j * call.points] : Sum{};
#pragma unroll
                for (int r = 0; r < ROWS; ++r)
                    if (r <= j && j < r + TAPS) sum[r] = mad(x, k[j - r], sum[r]);
            }
        }
        Sum* to = call.products + column + (top + call.taps - 1) * call.points;
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
            if (top + r < outputs) to[r * call.points] = sum[r];
    }
}
