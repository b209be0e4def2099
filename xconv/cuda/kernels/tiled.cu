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
//   ACROSS, LINES   threads along columns (times lanes) and rows
//   STRIDE_H, DILATION_H
//   SLABS           channels times taps of deep axes
//   X_DOWN, Y_DOWN  whether rows, not columns, are neighbours in the memory of x and y
// and these, always literals:
//   RX, RY, STRIDE_W, DILATION_W, CHUNK (taps of a row read at a time),
//   PACKED (M is 1, and rows are read RX elements at a time), WIDE (lanes that may be copied at
//   once; it divides M and PITCH), UNROLL (whether rows are unrolled),
//   UNROLL_CHUNKS (how many chunks are, where rows are not),
//   FILTER (room for taps passed by value; 0: they are at `w`), STAGED (whether taps go through
//   shared memory), W_LANES (each lane has its own taps), DEEPS (number of deep axes), THREADS

// Division by a number that the host knows: the high half of a product, shifted.
struct alignas(8) Divisor { unsigned size, multiplier, shift, unused; };

struct Call {
    const Input* x;
    Value* y;
    const Sum* w;  // (groups, outputs, channels, taps...)
    long long x_row, x_column, x_lane, x_channel;
    long long y_row, y_column, y_lane;
    long long w_lane;
    int rows_in, rows_out, rows_low, rows_boundary;
    int columns_in, columns_out, columns_low, columns_boundary;
    int lanes, channels, slabs, outers;
    int taps_h, taps_w, stride_h, dilation_h, m, x_down, y_down, pitch, tile_h, tile_w, tile_elements;
    int sources_at;  // bytes
    Divisor blocks_lane, blocks_column, blocks_row;
    Outer outer[8];  // those that change fastest first, as the deep axes
    Spatial deep[4];
    Sum cval;
    Sum filter[FILTER > 0 ? FILTER : 1];
};

struct Place {
    const Input* x;
    Value* y;
    long long w;                       // the first of its taps
    int row, column, lane;             // first output of the tile
    int first[DEEPS > 0 ? DEEPS : 1];  // position under the first tap of each deep axis
};

struct alignas(PACKED ? RX * sizeof(Sum) : sizeof(Sum)) Pack { Sum v[RX]; };

static __device__ inline unsigned digit(unsigned& block, const Divisor& by)
{
    if (by.size == 1) return 0;
    const unsigned quotient = __umulhi(block, by.multiplier) >> by.shift;
    const unsigned remainder = block - quotient * by.size;
    block = quotient;
    return remainder;
}

// Where a tile of `length` begins on an axis of `size`.  The last one is moved back, so that it
// ends with the axis: it computes some outputs once more, which are the same.
static __device__ inline int begin_of(unsigned which, int length, int size)
{
    const int begin = static_cast<int>(which) * length, last = size - length;
    return last > 0 && begin > last ? last : begin;
}

static __device__ inline Place place_of(const Call& call)
{
    Place at{call.x, call.y, 0, 0, 0, 0, {}};
    unsigned block = blockIdx.x;
    at.lane = begin_of(digit(block, call.blocks_lane), M, call.lanes);
    at.column = begin_of(digit(block, call.blocks_column), (ACROSS) / (M) * RX, call.columns_out);
    at.row = begin_of(digit(block, call.blocks_row), (LINES) * RY, call.rows_out);
#pragma unroll
    for (int d = 0; d < DEEPS; ++d) {
        const Spatial& axis = call.deep[d];
        const int i = digit(block, static_cast<unsigned>(axis.outputs));
        at.first[d] = i * axis.stride - static_cast<int>(axis.low);
        at.y += i * axis.y;
    }
#pragma unroll 1
    for (int n = 0; n < call.outers; ++n) {
        const unsigned size = static_cast<unsigned>(call.outer[n].size);
        const long long i = n + 1 < call.outers ? digit(block, size) : block;
        at.x += i * call.outer[n].x;
        at.y += i * call.outer[n].y;
        at.w += i * call.outer[n].w;
    }
    return at;
}

// The image of one channel under one tap of the deep axes; null beyond a constant edge.
static __device__ inline const Input* slab_of(const Call& call, const Place& at, int slab)
{
    const Input* x = at.x;
    bool inside = true;
#pragma unroll
    for (int d = 0; d < DEEPS; ++d) {
        const Spatial& axis = call.deep[d];
        const int tap = slab % axis.taps;
        slab /= axis.taps;
        const int i = source_index(
            at.first[d] + tap * axis.dilation, static_cast<int>(axis.size), axis.boundary);
        inside = inside && i >= 0;
        x += i * axis.x;
    }
    return inside ? x + slab * call.x_channel : nullptr;
}

// How the threads share out a tile: from (row, column) in steps, neighbours in memory together.
// A thread keeps to one lane.
struct Walk { int row, row_step, column, column_step; };

static __device__ inline Walk walk(const Call& call, bool down)
{
    const int x = threadIdx.x, y = threadIdx.y;
    if (M != 1) return Walk{y, LINES, x, ACROSS};
    // The number of threads is a power of two here.
    const int thread = y * (ACROSS) + x, threads = (LINES) * (ACROSS);
    const int near = threads < 32 ? threads : 32, far = threads / near;
    if (down) return Walk{thread % near, near, thread / near, far};
    return Walk{thread / near, far, thread % near, near};
}

// For each column under the tile, then for each row, what lies there: its distance from the first
// element of the image, or BEYOND.
constexpr long long BEYOND = -0x7fffffffffffffffLL - 1;

// The first row and column under a tile, and how it may be read.
struct Under {
    int row, column;
    bool inside;  // all of it lies in the image
    bool packs;   // columns do, follow each other in memory, and may begin on 16 bytes in each row
    bool wide;    // lanes follow each other, and may begin on WIDE elements in each row and column
};

constexpr bool SAME_BITS = Same<Input, Value>::value && sizeof(Value) == sizeof(Sum);
constexpr int PACK = 16 / sizeof(Sum);  // elements of 16 bytes

static __device__ inline Under under_tile(const Call& call, const Place& at)
{
    const int row = at.row * (STRIDE_H) - call.rows_low, column = at.column * STRIDE_W - call.columns_low;
    const int packed = (TILE_W + PACK - 1) / PACK * PACK;
    const bool rows = row >= 0 && row + (TILE_H) <= call.rows_in;
    const bool columns = column >= 0 && column + TILE_W / (M) <= call.columns_in;
    const bool packs = SAME_BITS && M == 1 && call.x_column == 1 && (rows || call.rows_boundary)
        && column >= 0 && column + packed <= call.columns_in && packed <= PITCH && PITCH % PACK == 0
        && call.x_row * sizeof(Input) % 16 == 0;
    const bool wide = SAME_BITS && call.x_lane == 1 && (call.x_row | call.x_column) % WIDE == 0;
    return Under{row, column, rows && columns && at.lane + (M) <= call.lanes, packs, wide};
}

static __device__ inline void find_sources(
    const Call& call, const Place& at, const Under& under, long long* sources)
{
    const int threads = (LINES) * (ACROSS), thread = threadIdx.y * (ACROSS) + threadIdx.x;
#pragma unroll 1
    for (int e = thread + (under.inside ? TILE_W + (under.packs ? 0 : TILE_H) : 0); e < TILE_W + (TILE_H); e += threads) {
        const bool is_row = e >= TILE_W;
        const int element = is_row ? e - (TILE_W) : e / (M);
        const int i = source_index(
            element + (is_row ? under.row : under.column), is_row ? call.rows_in : call.columns_in,
            is_row ? call.rows_boundary : call.columns_boundary);
        const int lane = is_row ? 0 : at.lane + e % (M);
        sources[e] = i < 0 || lane >= call.lanes
            ? BEYOND : i * (is_row ? call.x_row : call.x_column) + lane * call.x_lane;
    }
}

// COUNT elements that follow each other go from the image to the tile.  Where their bits stay what
// they are, devices from sm_80 on copy 4, 8 or 16 bytes without the thread waiting for it.
template <int COUNT> static __device__ inline void fetch(Sum* to, const Input* from)
{
#if COPIES_ASYNC
    if constexpr (SAME_BITS) {
        copy_async<COUNT * sizeof(Sum)>(to, from);
        return;
    }
#endif
#pragma unroll
    for (int e = 0; e < COUNT; ++e) to[e] = converted(from[e]);
}

// The tile, where its elements are looked up.
static __device__ inline void load_found(
    const Call& call, const Input* x, const long long* of_columns, const long long* of_rows, Sum* tile)
{
    const Walk step = walk(call, X_DOWN);
#pragma unroll 1
    for (int c = step.column; c < TILE_W; c += step.column_step) {
        const long long column = of_columns[c];
        const bool inside = x && column != BEYOND;
#pragma unroll 4
        for (int r = step.row; r < TILE_H; r += step.row_step) {
            const long long row = of_rows[r];
            if (inside && row != BEYOND) fetch<1>(tile + r * PITCH + c, x + (row + column));
            else tile[r * PITCH + c] = call.cval;
        }
    }
}

// The tile, where all of it lies in the image, COUNT lanes at a time.
template <int COUNT> static __device__ inline void load_inside(
    const Call& call, const Place& at, const Under& under, const Input* x, Sum* tile)
{
    const Walk step = walk(call, X_DOWN);
    const int lanes = M / COUNT;
    const long long right = step.column_step / lanes * call.x_column;
    const Input* from = x + (under.row + step.row) * call.x_row
        + (under.column + step.column / lanes) * call.x_column
        + (at.lane + step.column % lanes * COUNT) * call.x_lane;
#pragma unroll 1
    for (int r = step.row; r < TILE_H; r += step.row_step, from += step.row_step * call.x_row) {
        const Input* next = from;
#pragma unroll 4
        for (int c = step.column; c < TILE_W / COUNT; c += step.column_step, next += right)
            fetch<COUNT>(tile + r * PITCH + c * COUNT, next);
    }
}

// The tile by 16 bytes, from its first column on: the threads go along one row after the other.
static __device__ inline void load_packs(
    const Call& call, const Input* x, const long long* of_rows, Sum* tile)
{
    const int width = (TILE_W + PACK - 1) / PACK, threads = (LINES) * (ACROSS);
    const int thread = threadIdx.y * (ACROSS) + threadIdx.x;
    int r = thread / width, c = thread % width;
#pragma unroll 4
    for (; r < TILE_H; r += threads / width, c += threads % width) {
        if (c >= width) {
            c -= width;
            if (++r >= TILE_H) break;
        }
        fetch<PACK>(tile + r * PITCH + c * PACK, x + (of_rows[r] + c * PACK));
    }
}

static __device__ inline bool aligned(const Input* x, unsigned bytes)
{
    return reinterpret_cast<unsigned long long>(x) % bytes == 0;
}

static __device__ inline void load_tile(
    const Call& call, const Place& at, const Under& under, const Input* x, const long long* sources,
    Sum* tile)
{
    const long long* rows = sources + (TILE_W);
    const Input* first = x + under.column;
    if (under.packs && x && aligned(first, 16))
        load_packs(call, first, rows, tile);
    else if (under.inside && x && WIDE > 1 && under.wide && aligned(x + at.lane, WIDE * sizeof(Sum)))
        load_inside<WIDE>(call, at, under, x, tile);
    else if (under.inside && x) load_inside<1>(call, at, under, x, tile);
    else load_found(call, x, sources, rows, tile);
}

// Taps in shared memory: rows of chunks, each padded to whole 16 bytes; or of M lanes.
constexpr int CHUNK_PITCH = (CHUNK + PACK - 1) / PACK * PACK;
#define TAPS_PITCH ((TAPS_W + CHUNK - 1) / CHUNK * CHUNK_PITCH)
struct alignas(16) TapPack { Sum v[PACK]; };

#if STAGED
static __device__ void load_taps(const Call& call, const Place& at, int slab, Sum* taps)
{
    const long long w = at.w + static_cast<long long>(slab) * (TAPS_H) * (TAPS_W);
    const int lanes = W_LANES ? M : 1, count = TAPS_H * TAPS_W * lanes;
    for (int e = threadIdx.y * (ACROSS) + threadIdx.x; e < count; e += (LINES) * (ACROSS)) {
        const int lane = at.lane + e % lanes, tap = e / lanes, column = tap % (TAPS_W);
        if (W_LANES && lane >= call.lanes) continue;
        taps[W_LANES ? e : tap / (TAPS_W) * TAPS_PITCH + column / CHUNK * CHUNK_PITCH + column % CHUNK]
            = tap_at(call, w + lane * call.w_lane + tap);
    }
}
#endif

// The taps of columns k, ..., k + CHUNK - 1 of a row, for this thread's lane.
static __device__ inline void read_taps(
    const Call& call, const Sum* taps, long long first, int row, int k, int lane,
    Sum (&w)[CHUNK_PITCH])
{
#if !STAGED || W_LANES
#pragma unroll
    for (int t = 0; t < CHUNK; ++t)
        if (k + t < TAPS_W)
#if STAGED
            w[t] = taps[(row * (TAPS_W) + k + t) * (M) + lane];
#else
            w[t] = call.filter[first + row * (TAPS_W) + k + t];
#endif
#else
    const Sum* from = taps + row * TAPS_PITCH + k / CHUNK * CHUNK_PITCH;
#pragma unroll
    for (int p = 0; p < CHUNK_PITCH / PACK; ++p) {
        const TapPack pack = reinterpret_cast<const TapPack*>(from)[p];
#pragma unroll
        for (int e = 0; e < PACK; ++e) w[p * PACK + e] = pack.v[e];
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
#pragma unroll UNROLL_CHUNKS
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
static __device__ inline void keep_sums(const Call& call, const Sum (&sum)[RY][RX], Sum* to)
{
#pragma unroll
    for (int a = 0; a < RY; ++a) {
#if PACKED
        Pack pack;
#pragma unroll
        for (int b = 0; b < RX; ++b) pack.v[b] = sum[a][b];
        *reinterpret_cast<Pack*>(to + a * (PITCH)) = pack;
#else
#pragma unroll
        for (int b = 0; b < RX; ++b) to[a * (PITCH) + b * (M)] = sum[a][b];
#endif
    }
}

template <bool INSIDE> static __device__ inline void store_rows(
    const Call& call, const Place& at, const Sum* tile)
{
    const Walk step = walk(call, Y_DOWN);
    const int left = call.rows_out - at.row, rows = left < (LINES) * RY ? left : (LINES) * RY;
    const int lane = at.lane + step.column % (M), first = at.column + step.column / (M);
    const int right = step.column_step / (M);
    Value* to = at.y + (at.row + step.row) * call.y_row + first * call.y_column + lane * call.y_lane;
    if (!INSIDE && lane >= call.lanes) return;
#pragma unroll 1
    for (int r = step.row; r < rows; r += step.row_step, to += step.row_step * call.y_row) {
        Value* next = to;
        int column = first;
#pragma unroll(INSIDE ? 4 : 1)
        for (int c = step.column; c < (ACROSS) * RX; c += step.column_step) {
            if (!INSIDE && column >= call.columns_out) break;
            *next = Convert<Value>::of(tile[r * PITCH + c]);
            next += right * call.y_column;
            column += right;
        }
    }
}

static __device__ inline void store_tile(const Call& call, const Place& at, const Sum* tile)
{
    const int columns = (ACROSS) / (M) * RX;
    if (at.column + columns <= call.columns_out && at.lane + (M) <= call.lanes)
        store_rows<true>(call, at, tile);
    else store_rows<false>(call, at, tile);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) tiled(const __grid_constant__ Call call)
{
    XCONV_SHARED(memory);
    Sum* const tile = reinterpret_cast<Sum*>(memory);
    Sum* const taps = tile + call.tile_elements;
    long long* const sources = reinterpret_cast<long long*>(memory + call.sources_at);
    const int lane = threadIdx.x % (M), column = threadIdx.x / (M) * RX, row = threadIdx.y * RY;
    const Place at = place_of(call);
    const Under under = under_tile(call, at);
    find_sources(call, at, under, sources);
    Sum sum[RY][RX] = {};
#pragma unroll 1
    for (int slab = 0; slab < SLABS; ++slab) {
        __syncthreads();
        load_tile(call, at, under, slab_of(call, at, slab), sources, tile);
        long long first = 0;
#if STAGED
        load_taps(call, at, slab, taps);
#elif FILTER != TAPS_H * TAPS_W
        first = at.w + static_cast<long long>(slab) * (TAPS_H) * (TAPS_W);
#endif
        wait_for_copies();
        __syncthreads();
        const Sum* window = tile + row * (STRIDE_H) * (PITCH) + column * STRIDE_W * (M) + lane;
        accumulate(call, window, taps, first, lane, sum);
    }
    __syncthreads();
    keep_sums(call, sum, tile + row * (PITCH) + column * (M) + lane);
    __syncthreads();
    store_tile(call, at, tile);
}
