// The gradient by images of few channels, whose taps fill the vectors that channels would not:
//
//   gx[b, g, i, q] = sum over o, p, t with p*stride + t*dilation - pad = q of
//       gy[b, g, o, p] * w[g, o, t, i]
//
// The products with all (t, i) are a Direct of one tap, whose kernels they are; for a block of
// positions they are kept in scratch, and added to gx window by window.
#pragma once

#include <vector>

#include "direct.h"

namespace xconv {

struct WindowSums {
  using Sizes = std::vector<ptrdiff_t>;

  Type type;      // float32 or float64
  Sizes x_shape;  // b, G, I, spatial...
  Sizes y_shape;  // b, G, O, positions...
  Sizes taps, stride, dilation, pad;

  // Throws std::invalid_argument where the numbers do not fit each other.
  void check() const;

  // `weights` (G, O, taps..., I) are contiguous.  The same bits for any number of workers.  Throws
  // ScratchError where max_memory does not hold a line of positions and one of gx for each worker.
  // Returns false where `interrupted` said so.
  bool run(const Isa& isa, Array gx, Array gy, const void* weights, int workers, size_t max_memory,
           bool (*interrupted)()) const;
};

}  // namespace xconv
