// Kernels of low rank: direct.h's form with zeros beyond a constant edge and
//
//   w[g, o, i, t] = sum over r of the product over axes a of vectors[a][r, g, o, i, t_a]
//
// as a pass along one axis after the other, over some rows of the images at a time.  Images whose
// values would leave the type's range on the way are convolved directly.
#pragma once

#include <vector>

#include "direct.h"

namespace xconv {

class Passes {
 public:
  using Sizes = std::vector<ptrdiff_t>;

  struct Problem {
    Type x_type, type;  // of x; of all else: a float or complex one that is its own accumulator
    Sizes x_shape, y_shape;  // batch..., G, I or O, spatial...
    Sizes taps, stride, dilation, pad;
    Boundary boundary;
  };

  // Contiguous, of `type`: (r, G, O, I, taps[a]) for each axis, and (G, O, I, taps...), whose sums
  // of absolute taps are at most `magnitude`.
  struct Kernel {
    ptrdiff_t terms;
    std::vector<const char*> vectors;
    const char* weights;
    double magnitude;
  };

  // Throws std::invalid_argument where the numbers do not fit each other.
  Passes(Problem problem, const Isa& isa);

  // Bytes that the results of passes take for a block (batch..., G, rows of the first spatial
  // axis), and the least memory that the core works with beside them.
  ptrdiff_t bytes(const Sizes& block) const;
  size_t least() const;

  // Each worker takes `bytes(block)` and `memory`.  The same bits for any number of workers, and
  // any block whose rows leave the range or not as the whole image does.  Returns false where
  // `interrupted` said so.
  bool run(const Kernel& kernel, Array x, Array y, const Sizes& block, int workers, size_t memory,
           bool (*interrupted)()) const;

  const Problem problem;
  const Isa& isa;
  size_t lead;  // axes before I or O

 private:
  friend class PassesRun;

  // Spatial sizes before the first pass and after each, of so many rows.
  std::vector<Sizes> sizes(ptrdiff_t rows) const;
  // The pass along one axis for a block of `rows` rows from number `first` on, of arrays (batch...,
  // G, spatial...), and the direct convolution of one of its images.
  Direct pass(size_t axis, const Sizes& leads, ptrdiff_t first, ptrdiff_t rows) const;
  Direct whole(ptrdiff_t first, ptrdiff_t rows) const;
};

}  // namespace xconv
