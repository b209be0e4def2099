// The gradient by the kernel: direct.h's form with the sum over positions instead of taps,
//
//   total[g, o, i, t] = sum over b, p of
//       conj(gy[b, g, o, p]) * xp[b, g, i, p*stride + t*dilation - pad]
//
// For each block of images, groups and positions that is a Direct: gy is its kernel, dilated by
// the stride, b is summed, and i is a batch axis.
#pragma once

#include "gradient.h"

namespace xconv {

// Its type is a float or complex one that is its own accumulator.
struct PositionSums : Gradient {
  Type x_type;
  Sizes block;           // b, G, positions...
  ptrdiff_t shares = 1;  // sums that the blocks are dealt to, each of the size of the total
  Boundary boundary = Boundary::constant;
  alignas(16) unsigned char fill[16] = {};

  // Throws std::invalid_argument where the numbers do not fit each other.
  void check() const;

  // The axis of (G, O, I, taps...) that is innermost in `total`; the others are in order.
  int lanes(const Isa& isa) const;

  // `total` is contiguous.  The same bits for any number of workers.  Each of them takes its part
  // of `max_memory` for the core, and in addition memory for a block of gy and its sums.  Returns
  // false where `interrupted` said so.
  bool run(const Isa& isa, Array x, Array gy, void* total, int workers, size_t max_memory,
           bool (*interrupted)()) const;
};

}  // namespace xconv
