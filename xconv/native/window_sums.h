// The gradient by images of few channels, whose taps fill the vectors that channels would not:
//
//   gx[b, g, i, q] = sum over o, p, t with p*stride + t*dilation - pad = q of
//       gy[b, g, o, p] * w[g, o, t, i]
//
// The products of a line of positions with all (t, i) are computed together, a bank of kernels of
// one tap with the positions as lanes; they are kept in scratch, and added to gx line by line.
#pragma once

#include "gradient.h"

namespace xconv {

// Its type is float32 or float64.
struct WindowSums : Gradient {
  // Throws std::invalid_argument where the numbers do not fit each other.
  void check() const;

  // `weights` (G, taps..., I, O) are contiguous.  The same bits for any number of workers.  Throws
  // ScratchError where max_memory does not hold what goes into one column of gx for each worker.
  // Returns false where `interrupted` said so.
  bool run(const Isa& isa, Array gx, Array gy, const void* weights, int workers, size_t max_memory,
           bool (*interrupted)()) const;
};

}  // namespace xconv
