// Kernels for AVX-512 (F, BW, DQ, VL): x86-64-v4.
#include <immintrin.h>

#include "conv.h"

namespace xconv::avx512 {

constexpr int vector_bytes = 64;
#include "vectors.inc"

// 32 registers: 24 sums, 4 of input, 1 weight.
namespace shape {
constexpr int real_rows = 6, real_vectors = 4;
constexpr int layer_rows = 6, layer_vectors = 4, narrow_rows = 12;
constexpr int slide_rows = 6, slide_vectors = 2;
constexpr int line_vectors = 8;
constexpr int complex_rows = 3, complex_vectors = 4;
constexpr int integer_rows = 4, integer_vectors = 2;
constexpr int roll_rows = 11;
constexpr int roll_vectors(int rows) { return rows < 5 ? 6 : 27 / rows; }
}  // namespace shape

INLINE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm512_fmadd_ps(a, b, c);
}
INLINE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm512_fmadd_pd(a, b, c);
}
// The vector `n` lanes after `a`, of which `b` is the continuation.  Masks of all lanes, as GCC
// warns of what its intrinsics without leave undefined.
template <int n>
INLINE Vector<float> following(Vector<float> a, Vector<float> b) {
  return _mm512_castsi512_ps(
      _mm512_maskz_alignr_epi32(0xffff, _mm512_castps_si512(b), _mm512_castps_si512(a), n));
}
template <int n>
INLINE Vector<double> following(Vector<double> a, Vector<double> b) {
  return _mm512_castsi512_pd(
      _mm512_maskz_alignr_epi64(0xff, _mm512_castpd_si512(b), _mm512_castpd_si512(a), n));
}
INLINE float to_float(uint16_t half) { return _cvtsh_ss(half); }
INLINE uint16_t to_half(float v) { return _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT); }

#include "convert.inc"
#include "kernels.inc"

}  // namespace xconv::avx512

namespace xconv {
constinit const Isa isa_avx512 = avx512::table("avx512");
}
