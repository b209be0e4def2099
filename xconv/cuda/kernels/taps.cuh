// One output as the sum of its products, read from x itself.
//
// Put in front: SPATIAL, the number of convolved axes.

struct At {
    const Input* x;            // null beyond a constant edge
    long long w;               // the next tap
    long long first[SPATIAL];  // position under the first tap
};

// The products of all taps of the axes AXIS, ..., SPATIAL - 1, in the kernel's order.
template <int AXIS> struct Taps {
    template <class Call>
    static __device__ void add(const Call& call, At& at, const Input* x, Sum& sum)
    {
        const Spatial& axis = call.spatial[AXIS];
        long long position = at.first[AXIS];
        for (int t = 0; t < axis.taps; ++t, position += axis.dilation) {
            const long long i = source_index(position, axis.size, axis.boundary);
            Taps<AXIS + 1>::add(call, at, x && i >= 0 ? x + i * axis.x : nullptr, sum);
        }
    }
};
template <> struct Taps<SPATIAL> {
    template <class Call>
    static __device__ void add(const Call& call, At& at, const Input* x, Sum& sum)
    {
        const Sum v = x ? converted(*x) : call.cval;
        sum = mad(v, tap_at(call, at.w++), sum);
    }
};

template <class Call> __device__ inline Sum sum_of_taps(const Call& call, At& at)
{
    Sum sum{};
    for (int channel = 0; channel < call.channels; ++channel)
        Taps<0>::add(call, at, at.x + channel * call.x_channel, sum);
    return sum;
}
