// What tiles read of x, continued beyond its edges and converted, into their planes; and the peak
// of each tile.

// A row of a plane: what lies under it.
struct Row {
    const Input* x;  // null beyond a constant edge
    bool filled;     // whether it is not all 0
};

static __device__ inline Row row_of(const Call& call, const Place& at, int channel, int row)
{
    Row found{at.x + channel * call.x_channel, true};
#pragma unroll
    for (int a = SPATIAL - 2; a >= 0; --a) {
        const Spatial& axis = call.spatial[a];
        const int c = digit(row, call.length[a]);
        const long long i = source_of(axis, at.start[a] * axis.stride - axis.low + c);
        found.filled = found.filled && c < call.read[a];
        found.x = found.x && i >= 0 ? found.x + i * axis.x : nullptr;
    }
    return found;
}

static __device__ inline Sum element(const Call& call, const Place& at, const Row& row, int c)
{
    constexpr int LAST = SPATIAL - 1;
    const Spatial& axis = call.spatial[LAST];
    if (!row.filled || c >= call.read[LAST]) return Sum{};
    const long long i = source_of(axis, at.start[LAST] * axis.stride - axis.low + c);
    return row.x && i >= 0 ? Convert<Sum>::of(Convert<Value>::of(row.x[i * axis.x])) : call.cval;
}

// Most calls find a peak that is as large already, which is cheaper to read than to write.
static __device__ inline void raise(unsigned* peak, unsigned bits)
{
    if (*static_cast<volatile unsigned*>(peak) < bits) atomicMax(peak, bits);
}

extern "C" __global__ void __launch_bounds__(WARP* WARPS) gather(const __grid_constant__ Call call)
{
    XCONV_SHARED(memory);
    const int x = threadIdx.x, y = threadIdx.y;
    const int columns = call.length[SPATIAL - 1];
    const unsigned planes = static_cast<unsigned>(call.tiles * call.channels);
    if (blockIdx.x == 0)
        for (int n = y * WARP + x; n < call.tiles; n += WARP * WARPS) call.next[n] = 0;
#if LANES
    Sum(*const part)[RUN + 1] = reinterpret_cast<Sum(*)[RUN + 1]>(memory);
    unsigned* const peaks = reinterpret_cast<unsigned*>(part + WARP);
    unsigned block = blockIdx.x;
    const int begin = digit<unsigned>(block, call.runs) * RUN;
    const int row = digit<unsigned>(block, call.rows);
    const int end = columns - begin < RUN ? columns - begin : RUN;
    if (y == 0) peaks[x] = 0;
    __syncthreads();
    const unsigned mine = block * WARP + x;
    if (mine < planes) {
        const Plane plane = plane_of(call, mine, call.channels);
        const Place at = place_of(call, plane.tile);
        const Row from = row_of(call, at, plane.member, row);
        unsigned peak = 0;
#pragma unroll 4
        for (int c = y; c < end; c += WARPS) {
            const Sum v = element(call, at, from, begin + c);
            const unsigned bits = peak_of(v);
            peak = bits > peak ? bits : peak;
            part[x][c] = v;
        }
        atomicMax(&peaks[x], peak);
    }
    __syncthreads();
    if (y == 0 && mine < planes && peaks[x])
        raise(&call.peaks[plane_of(call, mine, call.channels).tile], peaks[x]);
    for (int lane = y; lane < WARP; lane += WARPS) {
        const unsigned number = block * WARP + lane;
        if (number >= planes) break;
        Sum* to = elements(call, plane_of(call, number, call.channels), call.channels);
        to += static_cast<long long>(row) * call.pitch + begin;
        for (int c = x; c < end; c += WARP) to[c] = part[lane][c];
    }
#else
    // Each warp takes a piece of a row; those of a block belong to at most WARPS tiles.
    unsigned* const peaks = reinterpret_cast<unsigned*>(memory);
    const unsigned pieces = call.channels * call.rows * call.runs;  // of a tile
    const unsigned first = blockIdx.x * WARPS / pieces;
    if (y == 0 && x < WARPS) peaks[x] = 0;
    __syncthreads();
    unsigned rest = blockIdx.x * WARPS + y;
    const int begin = digit<unsigned>(rest, call.runs) * RUN;
    const int row = digit<unsigned>(rest, call.rows);
    if (rest < planes) {
        const Plane plane = plane_of(call, rest, call.channels);
        const Place at = place_of(call, plane.tile);
        const Row from = row_of(call, at, plane.member, row);
        const int end = columns - begin < RUN ? columns - begin : RUN;
        Sum* to = elements(call, plane, call.channels);
        to += static_cast<long long>(row) * call.pitch + begin;
        unsigned peak = 0;
#pragma unroll 4
        for (int c = x; c < end; c += WARP) {
            const Sum v = element(call, at, from, begin + c);
            const unsigned bits = peak_of(v);
            peak = bits > peak ? bits : peak;
            to[c] = v;
        }
        if (peak) atomicMax(&peaks[plane.tile - first], peak);
    }
    __syncthreads();
    if (y == 0 && x < WARPS && peaks[x]) raise(&call.peaks[first + x], peaks[x]);
#endif
}
