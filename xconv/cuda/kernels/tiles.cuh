// Tiles of a transform: where the elements of their planes come from and go to.
//
// A tile is the input under a box of outputs of one entry.  It has a plane in scratch for each
// channel, of rows of `pitch` elements, and later one for each output of the bank.
//
// Put in front: SPATIAL (convolved axes), FILTER (room for taps passed by value; 0: they are at
// `w`), and LANES, which planes the 32 threads of a warp take on the side of x or y: 0 one of them,
// along a row; 1 neighbouring tiles; 2 neighbouring channels of a tile, or outputs.

struct Call {
    const Input* x;
    Value* y;
    const Sum* w;           // (groups, outputs, channels, taps...), contiguous
    Sum* planes;
    unsigned* peaks;        // by tile: the largest `peak_of` of its elements
    long long first, tiles; // number of the first tile of this call, and of how many there are
    unsigned low, high;     // the transform of a tile is right where its peak is 0 or between these
    long long x_channel, y_output, w_output;
    double scale;
    int channels, outputs;
    int near, outers;
    int rows, pitch;        // of a plane
    int out_rows;           // rows of outputs of a tile
    int runs;               // pieces of a row, each the work of one warp or block
    Outer outer[24];        // the first `near` of them are numbered before the tiles of an entry
    Spatial spatial[SPATIAL];
    int along[SPATIAL];     // tiles
    int length[SPATIAL];    // of the transform
    int read[SPATIAL];      // elements of it that come from x; the rest are 0
    int box[SPATIAL];       // outputs of a tile
    Sum cval;
    Sum filter[FILTER > 0 ? FILTER : 1];
};

constexpr int WARP = 32, WARPS = 8;
constexpr int RUN = LANES ? 64 : 512;  // elements of a row that a warp or block takes

// The bits of |v|, whose order is that of the magnitudes, with NaN above inf; of a double the upper
// half, and the last bit set where the lower one is not 0.
__device__ inline unsigned peak_of(float v) { return __float_as_uint(v) & 0x7fffffff; }
__device__ inline unsigned peak_of(double v)
{
    return (__double2hiint(v) & 0x7fffffff) | (__double2loint(v) != 0);
}
template <class T> __device__ inline unsigned peak_of(Complex<T> v)
{
    const unsigned re = peak_of(v.re), im = peak_of(v.im);
    return re > im ? re : im;
}

// Elements of x and y, which are used once, are not to push planes out of the cache.
#ifdef __CUDA_ARCH__
template <int BYTES> struct Bits { using Type = unsigned; };
template <> struct Bits<8> { using Type = unsigned long long; };
template <> struct Bits<16> { using Type = ulonglong2; };
template <class T> union Whole {
    T value;
    typename Bits<sizeof(T)>::Type bits;
};
template <class T> __device__ inline T read_once(const T* from)
{
    if constexpr (sizeof(T) < 4) return *from;
    else {
        Whole<T> whole;
        whole.bits = __ldcs(&reinterpret_cast<const Whole<T>*>(from)->bits);
        return whole.value;
    }
}
template <class T> __device__ inline void write_once(T* to, T value)
{
    if constexpr (sizeof(T) < 4) *to = value;
    else __stcs(&reinterpret_cast<Whole<T>*>(to)->bits, Whole<T>{value}.bits);
}
#else
template <class T> __device__ inline T read_once(const T* from) { return *from; }
template <class T> __device__ inline void write_once(T* to, T value) { *to = value; }
#endif

// Beyond the edges, apart from the loops, which most positions stay within.
static __device__ __noinline__ long long beyond(const Spatial& axis, long long at)
{
    return source_index(at, axis.size, axis.boundary);
}

static __device__ inline long long source_of(const Spatial& axis, long long at)
{
    return at >= 0 && at < axis.size ? at : beyond(axis, at);
}

// One digit of a number, which has 32 bits in most calls: these are divided much faster.
static __device__ inline long long digit_of(unsigned long long& rest, long long size)
{
    if ((rest | size) >> 32) return digit<unsigned long long>(rest, size);
    unsigned low = static_cast<unsigned>(rest);
    const unsigned found = digit<unsigned>(low, static_cast<unsigned>(size));
    rest = low;
    return found;
}

struct Place {
    const Input* x;
    Value* y;
    long long w;
    long long start[SPATIAL];  // first output
};

static __device__ inline Place place_of(const Call& call, long long tile)
{
    Place at{call.x, call.y, 0, {}};
    unsigned long long rest = call.first + tile;
    for (int n = 0; n < call.outers; ++n) {
        if (n == call.near)
            for (int a = SPATIAL - 1; a >= 0; --a)
                at.start[a] = digit_of(rest, call.along[a]) * call.box[a];
        const long long i = digit_of(rest, call.outer[n].size);
        at.x += i * call.outer[n].x;
        at.y += i * call.outer[n].y;
        at.w += i * call.outer[n].w;
    }
    if (call.near == call.outers)
        for (int a = SPATIAL - 1; a >= 0; --a)
            at.start[a] = digit_of(rest, call.along[a]) * call.box[a];
    return at;
}

// A plane by the number under which threads take it: its tile, and which plane of the tile it is.
struct Plane { long long tile; int member; };

static __device__ inline Plane plane_of(const Call& call, unsigned number, int members)
{
    if (LANES == 1) {
        const unsigned tiles = static_cast<unsigned>(call.tiles);
        return Plane{number % tiles, static_cast<int>(number / tiles)};
    }
    return Plane{number / members, static_cast<int>(number % members)};
}

static __device__ inline Sum* elements(const Call& call, Plane plane, int members)
{
    return call.planes + (plane.tile * members + plane.member) * call.rows * call.pitch;
}
