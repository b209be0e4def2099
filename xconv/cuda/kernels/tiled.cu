// A tile of outputs per block: the input under it in shared memory, sums in registers.
//
// The tile has rows and columns.  Columns are the last convolved axis; M neighbours of another
// axis (batch, or groups), the lanes, may be interleaved with them, so that threads that follow
// each other touch elements that follow each other: column c of the tile is element c / M of the
// convolved axis and lane c % M.  Rows are the convolved axis before, or a batch axis with one
// tap.  What other convolved axes and summed channels there are is walked slab by slab.
//
// A thread sums RY * RX outputs: for each row of the tile under them it reads a window of columns
// into registers, once for all taps of the row.  Each output sums its products in one order:
// channels, then taps in the kernel's order.
//
// Put in front: Input, Value, Sum, and these, literals where the kernel is compiled for them,
// else fields of `call`:
//   TAPS_H, TAPS_W  taps of rows and columns     PITCH   elements from row to row of the tile
//   M               lanes                        TILE_H, TILE_W  rows and columns under a tile
//   STRIDE_H, DILATION_H
// and these, always literals:
//   RX, RY, STRIDE_W, DILATION_W, CHUNK (taps of a row read at a time),
//   PACKED (M is 1, and rows are read RX elements at a time), UNROLL (rows unrolled),
//   FILTER (taps passed by value; 0: they are staged in shared memory), W_LANES (each lane has
//   its own taps), X_DOWN and Y_DOWN (rows, not columns, are neighbours in memory), THREADS

struct Call {
    const Input* x;
    Value* y;
    const Sum* w;  // (groups, outputs, channels, taps...)
    long long blocks;
    long long x_row, x_column, x_lane, x_channel;
    long long y_row, y_column, y_lane;
    long long w_lane;
    int rows_in, rows_out, rows_low, rows_boundary;
    int columns_in, columns_out, columns_low, columns_boundary;
    int lanes, channels, slabs, outers, deeps;
    int taps_h, taps_w, stride_h, dilation_h, m, pitch, tile_h, tile_w, tile_elements;
    int blocks_lane, blocks_column, blocks_row;
    Outer outer[8];   // those that change fastest first, as the deep axes
    Spatial deep[4];
    Sum cval;
    Sum filter[FILTER > 0 ? FILTER : 1];
};

struct Place {
    const Input* x;
    Value* y;
    const Sum* w;
    int row, column, lane;   // first output of the tile
    long long first[4];      // position under the first tap of each deep axis
};

struct alignas(RX * sizeof(Sum)) Pack { Sum v[RX]; };

static __device__ Place place_of(const Call& call, long long block)
{
    Place at{call.x, call.y, call.w, 0, 0, 0, {}};
    at.lane = static_cast<int>(block % call.blocks_lane) * (M);
    block /= call.blocks_lane;
    at.column = static_cast<int>(block % call.blocks_column) * static_cast<int>(blockDim.x / (M)) * RX;
    block /= call.blocks_column;
    at.row = static_cast<int>(block % call.blocks_row) * static_cast<int>(blockDim.y) * RY;
    block /= call.blocks_row;
#pragma unroll
    for (int d = 0; d < 4; ++d)
        if (d < call.deeps) {
            const long long i = block % call.deep[d].outputs;
            block /= call.deep[d].outputs;
            at.first[d] = i * call.deep[d].stride - call.deep[d].low;
            at.y += i * call.deep[d].y;
        }
    for (int n = 0; n < call.outers; ++n) {
        const long long i = block % call.outer[n].size;
        block /= call.outer[n].size;
        at.x += i * call.outer[n].x;
        at.y += i * call.outer[n].y;
        at.w += i * call.outer[n].w;
    }
    return at;
}

// The image of one channel under one tap of the deep axes; null beyond a constant edge.
static __device__ const Input* slab_of(const Call& call, const Place& at, int slab)
{
    const Input* x = at.x;
    bool inside = true;
#pragma unroll
    for (int d = 0; d < 4; ++d)
        if (d < call.deeps) {
            const Spatial& axis = call.deep[d];
            const long long position = at.first[d] + slab % axis.taps * axis.dilation;
            slab /= axis.taps;
            const long long i = source_index(position, axis.size, axis.boundary);
            inside = inside && i >= 0;
            x += i * axis.x;
        }
    return inside ? x + slab * call.x_channel : nullptr;
}

// How the threads share out a tile: from (row, column) in steps, neighbours in memory together.
struct Walk { int row, row_step, column, column_step; };

static __device__ inline Walk walk(bool down)
{
    if (!down)
        return Walk{static_cast<int>(threadIdx.y), static_cast<int>(blockDim.y),
                    static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
    // The number of threads is a power of two here.
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    const int width = threads < 32 ? threads : 32;
    return Walk{thread % width, width, thread / width, threads / width};
}

static __device__ void load_tile(const Call& call, const Place& at, const Input* x, Sum* tile)
{
    const int row0 = at.row * STRIDE_H - call.rows_low;
    const int column0 = at.column * STRIDE_W - call.columns_low;
    const Walk step = walk(X_DOWN);
    for (int c = step.column; c < TILE_W; c += step.column_step) {
        const int lane = at.lane + c % (M);
        const int column = source_index(column0 + c / (M), call.columns_in, call.columns_boundary);
        const bool inside = x && column >= 0 && lane < call.lanes;
        const Input* from = x + column * call.x_column + lane * call.x_lane;
#pragma unroll 4
        for (int r = step.row; r < TILE_H; r += step.row_step) {
            const int row = source_index(row0 + r, call.rows_in, call.rows_boundary);
            Sum v = call.cval;
            if (inside && row >= 0)
                v = Convert<Sum>::of(Convert<Value>::of(from[row * call.x_row]));
            tile[r * PITCH + c] = v;
        }
    }
}

// Taps in shared memory: rows of chunks, each padded to whole 16 bytes; or of M lanes.
constexpr int TAP_PACK = 16 / sizeof(Sum);
constexpr int CHUNK_PITCH = (CHUNK + TAP_PACK - 1) / TAP_PACK * TAP_PACK;
#define TAPS_PITCH ((TAPS_W + CHUNK - 1) / CHUNK * CHUNK_PITCH)
struct alignas(16) TapPack { Sum v[TAP_PACK]; };

#if FILTER == 0
static __device__ void load_taps(const Call& call, const Place& at, int slab, Sum* taps)
{
    const Sum* w = at.w + static_cast<long long>(slab) * (TAPS_H) * (TAPS_W);
    const int lanes = W_LANES ? M : 1;
    const int threads = blockDim.x * blockDim.y, count = TAPS_H * TAPS_W * lanes;
    for (int e = threadIdx.y * blockDim.x + threadIdx.x; e < count; e += threads) {
        const int lane = at.lane + e % lanes, tap = e / lanes, column = tap % (TAPS_W);
        if (W_LANES && lane >= call.lanes) continue;
        taps[W_LANES ? e : tap / (TAPS_W) * TAPS_PITCH + column / CHUNK * CHUNK_PITCH + column % CHUNK]
            = w[lane * call.w_lane + tap];
    }
}
#endif

// The taps of columns k, ..., k + CHUNK - 1 of a row, for this thread's lane.
static __device__ inline void read_taps(
    const Call& call, const Sum* taps, long long first, int row, int k, int lane,
    Sum (&w)[CHUNK_PITCH])
{
#if FILTER || W_LANES
#pragma unroll
    for (int t = 0; t < CHUNK; ++t)
        if (k + t < TAPS_W)
#if FILTER
            w[t] = call.filter[first + row * (TAPS_W) + k + t];
#else
            w[t] = taps[(row * (TAPS_W) + k + t) * (M) + lane];
#endif
#else
    const Sum* from = taps + row * TAPS_PITCH + k / CHUNK * CHUNK_PITCH;
#pragma unroll
    for (int p = 0; p < CHUNK_PITCH / TAP_PACK; ++p) {
        const TapPack pack = reinterpret_cast<const TapPack*>(from)[p];
#pragma unroll
        for (int e = 0; e < TAP_PACK; ++e) w[p * TAP_PACK + e] = pack.v[e];
    }
#endif
}

// The columns that CHUNK taps of RX outputs read.
constexpr int WINDOW = (RX - 1) * STRIDE_W + (CHUNK - 1) * DILATION_W + 1;
constexpr int WINDOW_PACKS = (WINDOW + RX - 1) / RX;

static __device__ inline void read_window(const Call& call, const Sum* from, Sum (&v)[WINDOW_PACKS * RX])
{
#if PACKED
#pragma unroll
    for (int p = 0; p < WINDOW_PACKS; ++p) {
        const Pack pack = reinterpret_cast<const Pack*>(from)[p];
#pragma unroll
        for (int e = 0; e < RX; ++e) v[p * RX + e] = pack.v[e];
    }
#else
#pragma unroll
    for (int c = 0; c < WINDOW; ++c) v[c] = from[c * (M)];
#endif
}

static __device__ inline void accumulate(
    const Call& call, const Sum* tile, const Sum* taps, long long first, int lane, Sum (&sum)[RY][RX])
{
    const int rows = (RY - 1) * STRIDE_H + (TAPS_H - 1) * DILATION_H + 1;
#if UNROLL
#pragma unroll
#else
#pragma unroll 1
#endif
    for (int r = 0; r < rows; ++r)
#if UNROLL
#pragma unroll
#else
#pragma unroll 1
#endif
        for (int k = 0; k < TAPS_W; k += CHUNK) {
            Sum v[WINDOW_PACKS * RX];
            read_window(call, tile + r * PITCH + k * DILATION_W * (M), v);
#pragma unroll
            for (int a = 0; a < RY; ++a) {
                const int below = r - a * STRIDE_H, row = below / DILATION_H;
                if (below < 0 || below % DILATION_H || row >= TAPS_H) continue;
                Sum w[CHUNK_PITCH];
                read_taps(call, taps, first, row, k, lane, w);
#pragma unroll
                for (int t = 0; t < CHUNK; ++t) {
                    if (k + t >= TAPS_W) continue;
#pragma unroll
                    for (int b = 0; b < RX; ++b)
                        sum[a][b] = mad(v[b * STRIDE_W + t * DILATION_W], w[t], sum[a][b]);
                }
            }
        }
}

// The sums go through shared memory, so that neighbours in memory are written together.
static __device__ void store_tile(const Call& call, const Place& at, const Sum* tile)
{
    const Walk step = walk(Y_DOWN);
    const int columns = blockDim.x * RX, rows = blockDim.y * RY;
    for (int c = step.column; c < columns; c += step.column_step) {
        const int lane = at.lane + c % (M), column = at.column + c / (M);
        if (lane >= call.lanes || column >= call.columns_out) continue;
        Value* to = at.y + column * call.y_column + lane * call.y_lane;
        for (int r = step.row; r < rows && at.row + r < call.rows_out; r += step.row_step)
            to[(at.row + r) * call.y_row] = Convert<Value>::of(tile[r * PITCH + c]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) tiled(const __grid_constant__ Call call)
{
    XCONV_SHARED(memory);
    Sum* const tile = reinterpret_cast<Sum*>(memory);
    Sum* const taps = tile + call.tile_elements;
    const int lane = threadIdx.x % (M), column = threadIdx.x / (M) * RX, row = threadIdx.y * RY;
    for (long long block = blockIdx.x; block < call.blocks; block += gridDim.x) {
        const Place at = place_of(call, block);
        Sum sum[RY][RX] = {};
        for (int slab = 0; slab < call.slabs; ++slab) {
            load_tile(call, at, slab_of(call, at, slab), tile);
            long long first = 0;
#if FILTER == 0
            load_taps(call, at, slab, taps);
#elif FILTER != TAPS_H * TAPS_W
            first = at.w - call.w + static_cast<long long>(slab) * (TAPS_H) * (TAPS_W);
#endif
            __syncthreads();
            const Sum* under = tile + row * STRIDE_H * PITCH + column * STRIDE_W * (M) + lane;
            accumulate(call, under, taps, first, lane, sum);
            __syncthreads();
        }
#pragma unroll
        for (int a = 0; a < RY; ++a)
#pragma unroll
            for (int b = 0; b < RX; ++b) tile[(row + a) * PITCH + (column + b) * (M) + lane] = sum[a][b];
        __syncthreads();
        store_tile(call, at, tile);
        __syncthreads();
    }
}
