// Where things lie: the host fills these structs, `geometry.py` holds the same fields.

// The element of an axis that stands at `at` beyond or inside its edges; -1 for none.
// Boundaries are numbered as in `xconv.problem.BOUNDARIES`.
template <class Int> __device__ inline Int source_index(Int at, Int size, int boundary)
{
    if (at >= 0 && at < size) return at;
    switch (boundary) {
    case 1: {  // reflect: a b c c b a
        at %= 2 * size;
        if (at < 0) at += 2 * size;
        return at < size ? at : 2 * size - 1 - at;
    }
    case 2: {  // mirror: a b c b
        const Int period = size > 1 ? 2 * size - 2 : 1;
        at %= period;
        if (at < 0) at += period;
        return at < size ? at : period - at;
    }
    case 3: return at < 0 ? 0 : size - 1;  // nearest
    case 4: {  // wrap
        at %= size;
        return at < 0 ? at + size : at;
    }
    default: return -1;  // constant
    }
}

// `rest` without its remainder, which is returned: one digit of a block's number.
template <class Int> __device__ inline Int digit(Int& rest, Int size)
{
    const Int quotient = rest / size, remainder = rest - quotient * size;
    rest = quotient;
    return remainder;
}

// An axis along which every index is its own problem: batch, groups, kernels of a bank.
struct Outer {
    long long size;
    long long x, y, w, skip;  // elements from one index to the next
};

// A convolved axis.
struct Spatial {
    long long x, y;           // elements from one index to the next
    long long size, outputs;  // of the image and of the result
    long long low;            // positions of the padding before the image
    int taps, stride, dilation, boundary;
};

// An element on its way into a sum.
static __device__ inline Sum converted(Input v) { return Convert<Sum>::of(Convert<Value>::of(v)); }

// A tap, of those passed by value or of those in memory.
template <class Call> __device__ inline Sum tap_at(const Call& call, long long at)
{
    if constexpr (FILTER > 0) return call.filter[at];
    else return call.w[at];
}
