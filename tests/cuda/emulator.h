// The little of CUDA C++ that the kernels use, for a host compiler; emulator.cpp runs them.
#pragma once
#include <math.h>
#include <string.h>

struct EmulatedIndex { unsigned x, y, z; };
extern "C" {
extern thread_local EmulatedIndex emulated_thread;
extern EmulatedIndex emulated_block, emulated_threads, emulated_blocks;
extern unsigned char* emulated_shared;
void emulated_barrier();
}
#define threadIdx emulated_thread
#define blockIdx emulated_block
#define blockDim emulated_threads
#define gridDim emulated_blocks
#define __global__
#define __device__
#define __grid_constant__
#define __noinline__
#define __launch_bounds__(...)
#define __syncthreads emulated_barrier
#define XCONV_SHARED(name) unsigned char* const name = emulated_shared

inline unsigned __umulhi(unsigned a, unsigned b)
{
    return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline unsigned __float_as_uint(float v) { unsigned bits; memcpy(&bits, &v, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float v; memcpy(&v, &bits, 4); return v; }

inline int __double2hiint(double v) { long long bits; memcpy(&bits, &v, 8); return bits >> 32; }
inline int __double2loint(double v) { long long bits; memcpy(&bits, &v, 8); return bits; }
inline unsigned atomicMax(unsigned* at, unsigned v)
{
    unsigned old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (old < v && !__atomic_compare_exchange_n(at, &old, v, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}

// Half precision in software: `scale` is the last place of a half of the magnitude of v.
inline unsigned short half_bits(double v)
{
    const unsigned short sign = signbit(v) ? 0x8000 : 0;
    const double size = fabs(v);
    if (isnan(v)) return sign | 0x7e00;
    if (size >= 65520) return sign | 0x7c00;
    int exponent;
    frexp(size, &exponent);  // size < 2^exponent
    if (size == 0 || exponent < -13) exponent = -13;
    const double scale = ldexp(1.0, exponent - 11);
    const int units = static_cast<int>(nearbyint(size / scale));  // ties to even
    return sign | static_cast<unsigned short>(((exponent + 13) << 10) + units);
}
inline unsigned short half_bits(float v) { return half_bits(static_cast<double>(v)); }
inline float half_value(unsigned short bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
        : exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24);
    return bits & 0x8000 ? -size : size;
}
