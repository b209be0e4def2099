// Kernels for what every processor of the architecture has: SSE2 on x86-64, NEON on aarch64.
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "conv.h"

namespace xconv::baseline {

constexpr int vector_bytes = 16;
#include "vectors.inc"

#if defined(__aarch64__)

// 32 registers: 24 sums, 4 of input, 1 weight.
namespace shape {
constexpr int real_rows = 6, real_vectors = 4;
constexpr int layer_rows = 6, layer_vectors = 4, narrow_rows = 6;
constexpr int slide_rows = 6, slide_vectors = 2;
constexpr int line_vectors = 0;  // loads cost less than shifts
constexpr int complex_rows = 3, complex_vectors = 4;
constexpr int integer_rows = 4, integer_vectors = 2;
constexpr int roll_rows = 0;
constexpr int roll_vectors(int) { return 0; }
}  // namespace shape

INLINE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
  return (Vector<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
INLINE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
  return (Vector<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}

#else

// 16 registers: 8 sums, 2 of input, 1 weight, 1 product.
namespace shape {
constexpr int real_rows = 4, real_vectors = 2;
constexpr int layer_rows = 4, layer_vectors = 2, narrow_rows = 4;
constexpr int slide_rows = 6, slide_vectors = 1;
constexpr int line_vectors = 0;  // loads cost less than shifts
constexpr int complex_rows = 2, complex_vectors = 2;
constexpr int integer_rows = 2, integer_vectors = 2;
constexpr int roll_rows = 0;
constexpr int roll_vectors(int) { return 0; }
}  // namespace shape

INLINE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) { return a * b + c; }
INLINE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
  return a * b + c;
}

#endif

#include "half.inc"

// After it, since they use it.
#include "convert.inc"
#include "kernels.inc"

}  // namespace xconv::baseline

namespace xconv {
#if defined(__aarch64__)
constinit const Isa isa_baseline = baseline::table("neon");
#else
constinit const Isa isa_baseline = baseline::table("sse2");
#endif
}  // namespace xconv
