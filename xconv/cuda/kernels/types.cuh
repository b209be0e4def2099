// Number types of the kernels, and how one becomes another.
//
// A kernel is compiled for three of them, named by the text put in front of it:
//   Input  what `x` holds          Value  the dtype of the result
//   Sum    in what products are summed
// An element goes Input -> Value -> Sum on its way in, and Sum -> Value on its way out.
// Integers are summed in unsigned ones: exact modulo 2^bits, and defined where they wrap.

#ifndef XCONV_SHARED
#define XCONV_SHARED(name) extern __shared__ __align__(32) unsigned char name[]
#endif

struct Bool { unsigned char bits; };   // any value but 0 is true
struct Truth { unsigned bits; };       // 0 or 1; a sum of these is OR, a product AND
struct Half { unsigned short bits; };
struct Brain { unsigned short bits; };  // bfloat16, the upper half of a float
template <class T> struct alignas(2 * sizeof(T)) Complex { T re, im; };

#ifdef __CUDA_ARCH__
__device__ inline unsigned short half_bits(float v)
{
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
}
__device__ inline unsigned short half_bits(double v)
{
    unsigned short bits;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(bits) : "d"(v));
    return bits;
}
__device__ inline float half_value(unsigned short bits)
{
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
    return v;
}
#endif

template <class A, class B> struct Same { static constexpr bool value = false; };
template <class A> struct Same<A, A> { static constexpr bool value = true; };

// The arithmetic number that a stored one stands for.
template <class T> __device__ inline T number(T v) { return v; }
__device__ inline int number(Bool v) { return v.bits != 0; }
__device__ inline unsigned number(Truth v) { return v.bits; }
__device__ inline float number(Half v) { return half_value(v.bits); }
__device__ inline float number(Brain v)
{
    return __uint_as_float(static_cast<unsigned>(v.bits) << 16);
}

template <class To> struct Convert {
    template <class From> static __device__ To of(From v) { return static_cast<To>(number(v)); }
};
template <> struct Convert<Bool> {
    template <class From> static __device__ Bool of(From v)
    {
        return Bool{static_cast<unsigned char>(number(v) != 0)};
    }
};
template <> struct Convert<Truth> {
    template <class From> static __device__ Truth of(From v) { return Truth{number(v) != 0}; }
};
template <> struct Convert<Half> {
    // From double, which holds every integer that a half does not round to infinity, so that
    // the number is rounded once.
    template <class From> static __device__ Half of(From v)
    {
        return Half{half_bits(static_cast<double>(number(v)))};
    }
    static __device__ Half of(float v) { return Half{half_bits(v)}; }
    static __device__ Half of(Half v) { return v; }
};
template <> struct Convert<Brain> {
    // By way of float, as in ml_dtypes; ties to even.
    template <class From> static __device__ Brain of(From v)
    {
        return of(static_cast<float>(number(v)));
    }
    static __device__ Brain of(float v)
    {
        const unsigned bits = __float_as_uint(v);
        if (v != v) return Brain{static_cast<unsigned short>(bits >> 16 | 0x40)};
        return Brain{static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
    }
    static __device__ Brain of(Brain v) { return v; }
};
template <class T> struct Convert<Complex<T>> {
    template <class From> static __device__ Complex<T> of(From v)
    {
        return Complex<T>{Convert<T>::of(v), T(0)};
    }
    template <class U> static __device__ Complex<T> of(Complex<U> v)
    {
        return Complex<T>{static_cast<T>(v.re), static_cast<T>(v.im)};
    }
};

// a * b + c
__device__ inline float mad(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double mad(double a, double b, double c) { return fma(a, b, c); }
__device__ inline unsigned mad(unsigned a, unsigned b, unsigned c) { return a * b + c; }
__device__ inline unsigned long long mad(
    unsigned long long a, unsigned long long b, unsigned long long c)
{
    return a * b + c;
}
__device__ inline Truth mad(Truth a, Truth b, Truth c) { return Truth{(a.bits & b.bits) | c.bits}; }
template <class T> __device__ inline Complex<T> mad(Complex<T> a, Complex<T> b, Complex<T> c)
{
    return Complex<T>{mad(-a.im, b.im, mad(a.re, b.re, c.re)), mad(a.im, b.re, mad(a.re, b.im, c.im))};
}

// The difference is NaN for NaN and infinities; exact types have neither.
template <class T> __device__ inline bool is_finite(T v) { return number(v) - number(v) == 0; }
template <class T> __device__ inline bool is_finite(Complex<T> v)
{
    return is_finite(v.re) && is_finite(v.im);
}
