// The valid part of transformed planes, scaled, converted and written to y.  A tile with values
// that a transform would spoil is summed directly instead.

__device__ inline float scaled(float v, double scale) { return v * static_cast<float>(scale); }
__device__ inline double scaled(double v, double scale) { return v * scale; }
template <class T> __device__ inline Complex<T> scaled(Complex<T> v, double scale)
{
    return Complex<T>{scaled(v.re, scale), scaled(v.im, scale)};
}

// Where output c of a tile stands in its plane, along one axis.
static __device__ inline int stands(const Call& call, int a, int c)
{
    const Spatial& axis = call.spatial[a];
    const int at = c * axis.stride + (axis.taps - 1) * axis.dilation;
    return at < call.length[a] ? at : at - call.length[a];
}

// A row of outputs of a tile.
struct Row {
    Value* y;
    At at;
    int left;   // outputs of the tile along it
    bool safe;
};

static __device__ inline Row row_of(const Call& call, Plane plane, int row)
{
    const Place place = place_of(call, plane.tile);
    Row found{place.y + plane.member * call.y_output, {place.x, 0, {}}, 0, false};
    found.at.w = place.w + plane.member * call.w_output;
    bool inside = true;
#pragma unroll
    for (int a = SPATIAL - 1; a >= 0; --a) {
        const Spatial& axis = call.spatial[a];
        const long long output = place.start[a] + (a == SPATIAL - 1 ? 0 : digit(row, call.box[a]));
        found.y += output * axis.y;
        found.at.first[a] = output * axis.stride - axis.low;
        inside = inside && output < axis.outputs;
    }
    const long long left = call.spatial[SPATIAL - 1].outputs - place.start[SPATIAL - 1];
    const int most = call.box[SPATIAL - 1];
    found.left = !inside ? 0 : left < most ? static_cast<int>(left) : most;
    const unsigned peak = call.peaks[plane.tile];
    found.safe = peak == 0 || (peak >= call.low && peak <= call.high);
    return found;
}

// The row of the plane in which a row of outputs stands, in elements.
static __device__ inline long long line_of(const Call& call, int row)
{
    long long line = 0, size = call.pitch;
#pragma unroll
    for (int a = SPATIAL - 2; a >= 0; --a) {
        line += stands(call, a, digit(row, call.box[a])) * size;
        size *= call.length[a];
    }
    return line;
}

static __device__ inline void store(const Call& call, const Row& row, int c, Sum v)
{
    row.y[c * call.spatial[SPATIAL - 1].y] = Convert<Value>::of(v);
}

static __device__ inline Sum direct(const Call& call, At at, int c)
{
    at.first[SPATIAL - 1] += static_cast<long long>(c) * call.spatial[SPATIAL - 1].stride;
    return sum_of_taps(call, at);
}

extern "C" __global__ void __launch_bounds__(WARP* WARPS, 2) scatter(const __grid_constant__ Call call)
{
    const int x = threadIdx.x, y = threadIdx.y;
    const int columns = call.box[SPATIAL - 1];
    const unsigned planes = static_cast<unsigned>(call.tiles * call.outputs);
#if LANES
    XCONV_SHARED(memory);
    Sum(*const part)[RUN + 1] = reinterpret_cast<Sum(*)[RUN + 1]>(memory);
    unsigned block = blockIdx.x;
    const int begin = digit<unsigned>(block, call.runs) * RUN;
    const int row = digit<unsigned>(block, call.out_rows);
    const int end = columns - begin < RUN ? columns - begin : RUN;
    const long long line = line_of(call, row);
    for (int lane = y; lane < WARP; lane += WARPS) {
        const unsigned number = block * WARP + lane;
        if (number >= planes) break;
        const Sum* from = elements(call, plane_of(call, number, call.outputs), call.outputs) + line;
        for (int c = x; c < end; c += WARP)
            part[lane][c] = from[stands(call, SPATIAL - 1, begin + c)];
    }
    __syncthreads();
    const unsigned mine = block * WARP + x;
    if (mine >= planes) return;
    const Row to = row_of(call, plane_of(call, mine, call.outputs), row);
    const int last = to.left - begin < RUN ? to.left - begin : RUN;
    if (to.safe) {
#pragma unroll 4
        for (int c = y; c < last; c += WARPS)
            store(call, to, begin + c, scaled(part[x][c], call.scale));
    } else {
#pragma unroll 1
        for (int c = y; c < last; c += WARPS) store(call, to, begin + c, direct(call, to.at, begin + c));
    }
#else
    unsigned rest = blockIdx.x * WARPS + y;
    const int begin = digit<unsigned>(rest, call.runs) * RUN;
    const int row = digit<unsigned>(rest, call.out_rows);
    if (rest >= planes) return;
    const Plane plane = plane_of(call, rest, call.outputs);
    const Row to = row_of(call, plane, row);
    const Sum* from = elements(call, plane, call.outputs) + line_of(call, row);
    const int last = to.left - begin < RUN ? to.left - begin : RUN;
    if (to.safe) {
#pragma unroll 4
        for (int c = x; c < last; c += WARP)
            store(call, to, begin + c,
                  scaled(from[stands(call, SPATIAL - 1, begin + c)], call.scale));
    } else {
#pragma unroll 1
        for (int c = x; c < last; c += WARP) store(call, to, begin + c, direct(call, to.at, begin + c));
    }
#endif
}
