// What tiles read of x, continued beyond its edges and converted, into their planes; and the peak
// of each tile.

// A piece of a row of a plane: what lies under it.
struct Row {
    const Input* x;   // the row's first element; null beyond a constant edge
    long long first;  // position of the piece along it
    int read;         // how many elements come from it; 0s follow
    int begin, end;   // those of them that lie in the image
};

static __device__ inline Row row_of(const Call& call, const Place& at, int channel, int row, int begin)
{
    constexpr int LAST = SPATIAL - 1;
    Row found{at.x + channel * call.x_channel, 0, call.read[LAST] - begin, 0, 0};
#pragma unroll
    for (int a = SPATIAL - 2; a >= 0; --a) {
        const Spatial& axis = call.spatial[a];
        const int c = digit(row, call.length[a]);
        const long long i = source_of(axis, at.start[a] * axis.stride - axis.low + c);
        if (c >= call.read[a]) found.read = 0;
        found.x = found.x && i >= 0 ? found.x + i * axis.x : nullptr;
    }
    const Spatial& axis = call.spatial[LAST];
    found.first = at.start[LAST] * axis.stride - axis.low + begin;
    if (found.read > RUN) found.read = RUN;
    if (!found.x) return found;
    if (found.first < 0) found.begin = found.first < -RUN ? RUN : static_cast<int>(-found.first);
    const long long left = axis.size - found.first;
    found.end = left < found.read ? static_cast<int>(left) : found.read;
    return found;
}

// Elements c, c + STEP, ... before `end` go to `to`; their peak.
template <int STEP> static __device__ inline unsigned copy(
    const Call& call, const Row& row, int c, int end, Sum* to)
{
    constexpr int MANY = 8;  // that are on their way at a time
    const Spatial& axis = call.spatial[SPATIAL - 1];
    unsigned peak = 0;
    if (axis.boundary == 0 || (row.begin <= 0 && row.end >= row.read)) {
        const Input* from = row.x + row.first * axis.x;
#pragma unroll 1
        for (; c < end; c += MANY * STEP) {
            Sum v[MANY];
#pragma unroll
            for (int n = 0; n < MANY; ++n) {
                const int at = c + n * STEP;
                v[n] = at < row.read ? call.cval : Sum{};
                if (at >= row.begin && at < row.end) v[n] = converted(read_once(from + at * axis.x));
            }
#pragma unroll
            for (int n = 0; n < MANY; ++n) {
                const unsigned bits = peak_of(v[n]);
                peak = bits > peak ? bits : peak;
                if (c + n * STEP < end) to[c + n * STEP] = v[n];
            }
        }
    } else {
#pragma unroll 1
        for (; c < end; c += STEP) {
            const Sum v = c < row.read ? converted(row.x[source_of(axis, row.first + c) * axis.x]) : Sum{};
            const unsigned bits = peak_of(v);
            peak = bits > peak ? bits : peak;
            to[c] = v;
        }
    }
    return peak;
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
        const Row from = row_of(call, at, plane.member, row, begin);
        const unsigned peak = copy<WARPS>(call, from, y, end, part[x]);
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
        const Row from = row_of(call, at, plane.member, row, begin);
        const int end = columns - begin < RUN ? columns - begin : RUN;
        Sum* to = elements(call, plane, call.channels);
        to += static_cast<long long>(row) * call.pitch + begin;
        const unsigned peak = copy<WARP>(call, from, x, end, to);
        if (peak) atomicMax(&peaks[plane.tile - first], peak);
    }
    __syncthreads();
    if (y == 0 && x < WARPS && peaks[x]) raise(&call.peaks[first + x], peaks[x]);
#endif
}
