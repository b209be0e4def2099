// The valid part of transformed planes, scaled, converted and written to y.

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

// A piece of a row of outputs of a tile.
struct Row {
    Value* y;   // its first output
    int count;  // outputs of the image that it has
};

static __device__ inline Row row_of(const Call& call, Plane plane, int row, int begin)
{
    const Place place = place_of(call, plane.tile);
    Row found{place.y + plane.member * call.y_output, 0};
    bool inside = true;
#pragma unroll
    for (int a = SPATIAL - 1; a >= 0; --a) {
        const Spatial& axis = call.spatial[a];
        const long long output = place.start[a] + (a == SPATIAL - 1 ? begin : digit(row, call.box[a]));
        found.y += output * axis.y;
        inside = inside && output < axis.outputs;
    }
    const long long left = call.spatial[SPATIAL - 1].outputs - place.start[SPATIAL - 1];
    const int most = call.box[SPATIAL - 1];
    const int count = (left < most ? static_cast<int>(left) : most) - begin;
    if (inside) found.count = count < RUN ? count : RUN;
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

constexpr int MANY = 8;  // elements that are on their way to a thread at a time

extern "C" __global__ void __launch_bounds__(WARP* WARPS) scatter(const __grid_constant__ Call call)
{
    constexpr int LAST = SPATIAL - 1;
    const int x = threadIdx.x, y = threadIdx.y;
    const int columns = call.box[LAST], apart = call.spatial[LAST].stride;
    const long long down = call.spatial[LAST].y;
    const unsigned planes = static_cast<unsigned>(call.tiles * call.outputs);
#if LANES
    XCONV_SHARED(memory);
    Sum(*const part)[RUN + 1] = reinterpret_cast<Sum(*)[RUN + 1]>(memory);
    unsigned block = blockIdx.x;
    const int begin = digit<unsigned>(block, call.runs) * RUN;
    const int row = digit<unsigned>(block, call.out_rows);
    const int end = columns - begin < RUN ? columns - begin : RUN;
    const long long line = line_of(call, row);
#pragma unroll
    for (int n = 0; n < WARP / WARPS; ++n) {
        const int lane = y + n * WARPS;
        const unsigned number = block * WARP + lane;
        if (number >= planes) break;
        const Sum* from = elements(call, plane_of(call, number, call.outputs), call.outputs) + line;
#pragma unroll
        for (int c = x; c < RUN; c += WARP)
            if (c < end) part[lane][c] = from[stands(call, LAST, begin + c)];
    }
    __syncthreads();
    const unsigned mine = block * WARP + x;
    if (mine >= planes) return;
    const Row to = row_of(call, plane_of(call, mine, call.outputs), row, begin);
#pragma unroll 4
    for (int c = y; c < to.count; c += WARPS)
        write_once(to.y + c * down, Convert<Value>::of(scaled(part[x][c], call.scale)));
#else
    unsigned rest = blockIdx.x * WARPS + y;
    const int begin = digit<unsigned>(rest, call.runs) * RUN;
    const int row = digit<unsigned>(rest, call.out_rows);
    if (rest >= planes) return;
    const Plane plane = plane_of(call, rest, call.outputs);
    const Row to = row_of(call, plane, row, begin);
    const Sum* from = elements(call, plane, call.outputs) + line_of(call, row);
    const int first = stands(call, LAST, begin);
    if (first + (to.count - 1) * apart < call.length[LAST]) {
        from += first;
#pragma unroll 1
        for (int c = x; c < to.count; c += MANY * WARP) {
            Sum v[MANY];
#pragma unroll
            for (int n = 0; n < MANY; ++n)
                if (c + n * WARP < to.count) v[n] = from[(c + n * WARP) * apart];
#pragma unroll
            for (int n = 0; n < MANY; ++n)
                if (c + n * WARP < to.count)
                    write_once(to.y + (c + n * WARP) * down,
                               Convert<Value>::of(scaled(v[n], call.scale)));
        }
    } else {
#pragma unroll 1
        for (int c = x; c < to.count; c += WARP)
            to.y[c * down]
                = Convert<Value>::of(scaled(from[stands(call, LAST, begin + c)], call.scale));
    }
#endif
}
