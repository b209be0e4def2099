// Layers: many outputs of each position, each a sum over taps and channels.
//
// It is a product of matrices: positions (batch and outputs along the axes) times taps and channels
// is what x holds under the taps, and is never stored; taps and channels times outputs are the
// weights.  A block makes BM positions by BN outputs, a thread RM by RN of them in registers.  The
// taps and channels go through shared memory STEP at a time: while the products of one step are
// summed, the elements of the next are on their way.  Each output sums its products in one order:
// taps in the kernel's order, then channels.
//
// Put in front: Input, Value, Sum, and
//   SPATIAL   number of convolved axes       BOUNDARY  beyond their edges
//   BM, BN, RM, RN, STEP, and RESIDENT, the blocks that a processor shall have room for
//   PARTS     threads that share the channels of a position
//   CHANNELS_NEAR  whether these are neighbours in the memory of x, so that threads which follow
//             each other take channels, not positions
//   WIDE      channels that are read at once
//   SPAN      whether a step holds channels of several taps; else it holds those of one, and
//   RAGGED    whether the last step of a tap has fewer
//   OUTPUTS_NEAR   whether outputs, not positions, are neighbours in the memory of y

struct Call {
    const Input* x;
    Value* y;
    const Sum* w;  // (groups, blocks of outputs, steps, STEP, BN), with 0 where there is no weight
    long long x_group, y_group, y_output;
    int x_channel, positions, outputs, channels, products;  // of a sum: taps times channels
    int steps, blocks_position, blocks_output, outers;
    Outer outer[8];  // of the batch
    Spatial spatial[SPATIAL];
    int order[8 + SPATIAL];  // axes of positions, outer ones first, neighbours in memory first
    Sum cval;
};

constexpr int PACK = 16 / sizeof(Sum);  // elements of 16 bytes
struct alignas(16) Pack { Sum v[PACK]; };
struct alignas(WIDE * sizeof(Input)) Wide { Input v[WIDE]; };

// Threads that follow each other have packs that do, so that a warp reads them without conflicts.
constexpr int DOWN = BM / RM, ACROSS = BN / RN, THREADS = DOWN * ACROSS;
constexpr int PITCH = BM + PACK;             // of positions, so that channels lie in other banks
constexpr int APART = THREADS / PARTS;       // positions that are loaded at a time
constexpr int POSITIONS = BM / APART;        // that a thread loads,
constexpr int EACH = STEP / PARTS;           // and channels of each
constexpr int SHARE = ACROSS * PACK;         // outputs that are stored at a time
constexpr int SHARE_PITCH = SHARE + PACK;
constexpr int BUFFER = STEP * (PITCH + BN);  // elements of one step
static_assert(SPAN ? PARTS == 1 && WIDE == 1 : EACH % WIDE == 0, "");

// What a position reads and where it is written.
struct Place {
    const Input* x;
    Value* y;
    int first[SPATIAL];  // under the first tap
    const Input* from;   // the next channel under the present tap,
    bool inside;         // unless that lies beyond a constant edge
};

// Which products come next: of a channel under a tap, after so many others.
struct Next { int channel, tap[SPATIAL], done; };

// Elements from a channel to the one after so many.
static __device__ inline long long channels(const Call& call, int count)
{
    return static_cast<long long>(count) * call.x_channel;
}

static __device__ inline Place place_of(const Call& call, int position, const Input* x, Value* y)
{
    Place at{x, y, {}, nullptr, false};
    unsigned rest = position < call.positions ? position : 0;
#pragma unroll 1
    for (int n = 0; n < call.outers + SPATIAL; ++n) {
        const int which = call.order[n], axis = which - call.outers;
        if (axis < 0) {
            const long long i = digit(rest, static_cast<unsigned>(call.outer[which].size));
            at.x += i * call.outer[which].x;
            at.y += i * call.outer[which].y;
        }
#pragma unroll
        for (int s = 0; s < SPATIAL; ++s) {
            if (s != axis) continue;
            const Spatial& along = call.spatial[s];
            const int i = digit(rest, static_cast<unsigned>(along.outputs));
            at.first[s] = i * along.stride - static_cast<int>(along.low);
            at.y += i * along.y;
        }
    }
    if (position >= call.positions) at.y = nullptr;
    return at;
}

// Point a position to its element under the present tap.
static __device__ inline void find(const Call& call, const Next& next, Place& at)
{
    at.from = at.x;
    at.inside = true;
#pragma unroll
    for (int s = 0; s < SPATIAL; ++s) {
        const Spatial& axis = call.spatial[s];
        const int i = source_index(
            at.first[s] + next.tap[s] * axis.dilation, static_cast<int>(axis.size), BOUNDARY);
        at.inside = at.inside && i >= 0;
        at.from += i * axis.x;
    }
}

static __device__ inline void go_to_tap(const Call& call, Next& next, Place (&at)[POSITIONS])
{
    next.channel = 0;
    bool carry = true;
#pragma unroll
    for (int s = SPATIAL - 1; s >= 0; --s) {
        next.tap[s] += carry;
        carry = next.tap[s] == call.spatial[s].taps;
        if (carry) next.tap[s] = 0;
    }
#pragma unroll
    for (int p = 0; p < POSITIONS; ++p) find(call, next, at[p]);
}

// The elements of the next step.  Those beyond the last channel are 0, as their weights are: even
// `cval` times 0 could be NaN.
static __device__ inline void load(
    const Call& call, Next& next, Place (&at)[POSITIONS], int part, Sum (&v)[EACH][POSITIONS])
{
#if SPAN
    const int left = call.products - next.done;
    next.done += STEP;
#pragma unroll
    for (int e = 0; e < EACH; ++e) {
#pragma unroll
        for (int p = 0; p < POSITIONS; ++p) {
            v[e][p] = e < left ? call.cval : Sum{};
            if (at[p].inside && e < left)
                v[e][p] = converted(at[p].from[channels(call, next.channel)]);
        }
        if (++next.channel == call.channels) go_to_tap(call, next, at);
    }
#else
    const int left = RAGGED ? call.channels - next.channel - part * EACH : EACH;
#pragma unroll
    for (int p = 0; p < POSITIONS; ++p) {
#pragma unroll
        for (int e = 0; e < EACH; e += WIDE) {
#pragma unroll
            for (int i = 0; i < WIDE; ++i) v[e + i][p] = e < left ? call.cval : Sum{};
            if (at[p].inside && e < left) {
                const Input* from = at[p].from + channels(call, e);
                const Wide wide = *reinterpret_cast<const Wide*>(from);
#pragma unroll
                for (int i = 0; i < WIDE; ++i) v[e + i][p] = converted(wide.v[i]);
            }
        }
        at[p].from += channels(call, STEP);
    }
    next.channel += STEP;
    if (next.channel >= call.channels) go_to_tap(call, next, at);
#endif
}

static __device__ inline void put(const Sum (&v)[EACH][POSITIONS], Sum* to)
{
#pragma unroll
    for (int e = 0; e < EACH; ++e)
#pragma unroll
        for (int p = 0; p < POSITIONS; ++p) to[e * PITCH + p * APART] = v[e][p];
}

static __device__ inline void fetch_weights(const Sum* from, Sum* to)
{
    constexpr int COUNT = STEP * BN / PACK;
#pragma unroll
    for (int e = 0; e < COUNT; e += THREADS) {
        const int at = (e + static_cast<int>(threadIdx.x)) * PACK;
        if (e + THREADS > COUNT && at >= COUNT * PACK) break;
#if COPIES_ASYNC
        copy_async<16>(to + at, from + at);
#else
        *reinterpret_cast<Pack*>(to + at) = *reinterpret_cast<const Pack*>(from + at);
#endif
    }
}

// COUNT elements in packs that lie `apart`.
template <int COUNT>
static __device__ inline void read(const Sum* from, int apart, Sum (&v)[COUNT])
{
#pragma unroll
    for (int p = 0; p < COUNT / PACK; ++p) {
        const Pack pack = *reinterpret_cast<const Pack*>(from + p * apart);
#pragma unroll
        for (int e = 0; e < PACK; ++e) v[p * PACK + e] = pack.v[e];
    }
}

static __device__ inline void multiply(const Sum* x, const Sum* w, Sum (&sum)[RM][RN])
{
#pragma unroll
    for (int k = 0; k < STEP; ++k) {
        Sum a[RM], b[RN];
        read(x + k * PITCH, DOWN * PACK, a);
        read(w + k * BN, SHARE, b);
#pragma unroll
        for (int i = 0; i < RM; ++i)
#pragma unroll
            for (int j = 0; j < RN; ++j) sum[i][j] = mad(a[i], b[j], sum[i][j]);
    }
}

// One pack of the outputs of each thread goes through shared memory, so that neighbours in memory
// are written together.
static __device__ inline void keep(
    const Sum (&sum)[RM][RN], int first, int down, int across, Sum* shared)
{
    Pack pack;
#if OUTPUTS_NEAR
#pragma unroll
    for (int i = 0; i < RM; ++i) {
#pragma unroll
        for (int e = 0; e < PACK; ++e) pack.v[e] = sum[i][first + e];
        const int position = (i / PACK * DOWN + down) * PACK + i % PACK;
        *reinterpret_cast<Pack*>(shared + position * SHARE_PITCH + across * PACK) = pack;
    }
#else
#pragma unroll
    for (int i = 0; i < RM; i += PACK)
#pragma unroll
        for (int o = 0; o < PACK; ++o) {
#pragma unroll
            for (int e = 0; e < PACK; ++e) pack.v[e] = sum[i + e][first + o];
            const int position = (i / PACK * DOWN + down) * PACK;
            *reinterpret_cast<Pack*>(shared + (across * PACK + o) * PITCH + position) = pack;
        }
#endif
}

static __device__ inline void store(
    const Call& call, const Sum* shared, Value* const* places, int output)
{
#pragma unroll 4
    for (int e = threadIdx.x; e < BM * SHARE; e += THREADS) {
        const int position = OUTPUTS_NEAR ? e / SHARE : e % BM;
        const int o = OUTPUTS_NEAR ? e % SHARE : e / BM;
        Value* const y = places[position];
        if (!y || output + o >= call.outputs) continue;
        const Sum v = shared[OUTPUTS_NEAR ? position * SHARE_PITCH + o : o * PITCH + position];
        y[(output + o) * call.y_output] = Convert<Value>::of(v);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) layer(
    const __grid_constant__ Call call)
{
    XCONV_SHARED(memory);
    Value** const places = reinterpret_cast<Value**>(memory);  // null beyond the last position
    Sum* const shared = reinterpret_cast<Sum*>(memory + BM * sizeof(Value*));
    const int thread = threadIdx.x, warp = thread / 32;
    // Threads next to each other share what they read: outputs, or positions.
    const int down = warp % (DOWN / 8) * 8 + thread / 2 % 8;
    const int across = warp / (DOWN / 8) * 4 + thread / 16 % 2 * 2 + thread % 2;

    unsigned block = blockIdx.x;
    const int output = digit<unsigned>(block, call.blocks_output);
    const int begin = static_cast<int>(digit<unsigned>(block, call.blocks_position)) * BM;
    const long long group = block;
    const Sum* w = call.w
        + (group * call.blocks_output + output) * static_cast<long long>(call.steps) * (STEP * BN);

    const int part = CHANNELS_NEAR ? thread % PARTS : thread / APART;
    const int mine = CHANNELS_NEAR ? thread / PARTS : thread % APART;
    const Input* x = call.x + group * call.x_group + channels(call, part * EACH);
    Place at[POSITIONS];
    Next next{};
#pragma unroll
    for (int p = 0; p < POSITIONS; ++p) {
        const int position = mine + p * APART;
        at[p] = place_of(call, begin + position, x, call.y + group * call.y_group);
        if (part == 0) places[position] = at[p].y;
        find(call, next, at[p]);
    }

    Sum v[EACH][POSITIONS], sum[RM][RN] = {};
    Sum* const to = shared + part * EACH * PITCH + mine;
    load(call, next, at, part, v);
    fetch_weights(w, shared + STEP * PITCH);
    put(v, to);
    wait_for_copies();
    __syncthreads();
#pragma unroll 1
    for (int step = 1; step <= call.steps; ++step) {
        const int present = (step - 1) % 2 * BUFFER, other = step % 2 * BUFFER;
        if (step < call.steps) {
            load(call, next, at, part, v);
            w += STEP * BN;
            fetch_weights(w, shared + other + STEP * PITCH);
        }
        multiply(shared + present + down * PACK, shared + present + STEP * PITCH + across * PACK, sum);
        if (step < call.steps) put(v, to + other);
        wait_for_copies();
        __syncthreads();
    }
#pragma unroll
    for (int first = 0; first < RN; first += PACK) {
        if (first) __syncthreads();
        keep(sum, first, down, across, shared);
        __syncthreads();
        store(call, shared, places, output * BN + first / PACK * SHARE);
    }
}
