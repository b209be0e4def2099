// Kernels for AVX2 with FMA and F16C: every x86-64-v3 processor (2013 on).
#include <immintrin.h>

#include "conv.h"

namespace xconv::avx2 {

constexpr int vector_bytes = 32;
#include "vectors.inc"

// 16 registers: 12 sums, 3 of input, 1 weight.
namespace shape {
constexpr int real_rows = 4, real_vectors = 3;
constexpr int layer_rows = 6, layer_vectors = 2;  // pads no bank of 16 or 32 kernels
constexpr int narrow_rows = layer_rows;
constexpr int slide_rows = 6, slide_vectors = 1;
constexpr int line_vectors = 0;  // loads cost less than shifts
constexpr int complex_rows = 2, complex_vectors = 3;
constexpr int integer_rows = 4, integer_vectors = 2;
constexpr int roll_rows = 3;  // more of them leave too few vectors
constexpr int roll_vectors(int) { return 3; }
}  // namespace shape

// Clang 19 moves sums between registers in loops that have none to spare, unless each has to stay
// where it was added: 1.6 times the time (Zen 5, float32, 2026-11-26).
#if defined(__clang__)
#define STAY(v) __asm__("" : "+x"(v))
#else
#define STAY(v)
#endif

INLINE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
  c = _mm256_fmadd_ps(a, b, c);
  STAY(c);
  return c;
}
INLINE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
  c = _mm256_fmadd_pd(a, b, c);
  STAY(c);
  return c;
}
INLINE float to_float(uint16_t half) { return _cvtsh_ss(half); }
INLINE uint16_t to_half(float v) { return _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT); }

#include "convert.inc"
#include "kernels.inc"

}  // namespace xconv::avx2

namespace xconv {
constinit const Isa isa_avx2 = avx2::table("avx2");
}
