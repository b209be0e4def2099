// A prepared direct convolution in the canonical correlation form of problem.py:
//
//   y[b, g, o, p] = sum over i, t of xp[b, g, i, p*stride + t*dilation - pad] * w[g, o, i, t]
//
// with xp the image continued beyond its edges.
#pragma once

#include <stdexcept>
#include <vector>

#include "conv.h"

namespace xconv {

constexpr int max_axes = 72;  // batch, G, I or O, and spatial; NumPy has 64 at most
constexpr int max_user_axes = 64;

enum class Boundary : int { constant, reflect, mirror, nearest, wrap };

// As problem.Axis: element i lies i*step elements along axis `of` of the user's array.
struct Axis {
  ptrdiff_t size;
  int of;
  ptrdiff_t step;
};

// An array of the user's: its first element, and per axis the bytes from one element to the next.
struct Array {
  char* data;
  const ptrdiff_t* strides;
};

struct Spec {
  Type x_type, y_type;
  bool kernel_is_real = false;  // of a complex result: w holds reals
  std::vector<Axis> x_axes;     // batch..., G, I, spatial...
  std::vector<Axis> y_axes;     // batch..., G, O, spatial...
  int spatial;
  std::vector<ptrdiff_t> kernel;  // G, O, I, spatial...
  std::vector<ptrdiff_t> stride, dilation, pad;
  Boundary boundary = Boundary::constant;
  alignas(16) unsigned char fill[16] = {};  // cval, as one element of the accumulator
};

// Contiguous, of the accumulator's type (the real one where kernel_is_real).
struct Weights {                 // either may be null, not both
  const void* plain;             // G, O, I, spatial...
  const void* turned = nullptr;  // from Direct::turn, unless there is a
  ptrdiff_t row = 0;  // elements from one tap to the next: the lanes of each are contiguous there
};

// The scratch allowed does not hold the smallest block.
struct ScratchError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

Number number_of(Type result);
ptrdiff_t size_of(Type type);
ptrdiff_t size_of(Number number);  // of an accumulator's element

// The order of weights that kernels may be given: with the kernels of a bank (Op::layer) or the
// groups (Op::channels) as lanes of vectors; else Op::plain.
Op turned_op(const Isa& isa, Number number, ptrdiff_t groups, ptrdiff_t outputs);

// An axis that blocks are cut along: a batch axis, the groups (with one tap), or a spatial axis.
struct Extent {
  ptrdiff_t outputs, inputs, taps, stride, dilation, pad;

  // Inputs under n neighbouring outputs.
  ptrdiff_t window(ptrdiff_t n) const { return (n - 1) * stride + (taps - 1) * dilation + 1; }
};

class Direct {
 public:
  // Throws std::invalid_argument where the numbers do not make a convolution.
  Direct(Spec spec, const Isa& isa);

  // Unless it is Op::plain, the weights are needed in that order too.
  Op turned() const { return turned_op(isa, number, groups, outputs); }
  ptrdiff_t turned_elements() const;
  void turn(Array plain, void* turned) const;

  // Shapes were checked against x_shape() and y_shape().  Returns false where `interrupted` said
  // so.
  bool run(Array x, Weights w, Array y, int workers, size_t max_memory,
           bool (*interrupted)()) const;

  // Bytes beyond the arrays that `run` uses at most, and the least max_memory that it works with.
  size_t scratch(int workers) const;
  size_t least(int workers) const;

  // The length that an axis of the user's array must have, or -1 where any will do but 0.
  const std::vector<ptrdiff_t>& x_shape() const { return x_shape_; }
  const std::vector<ptrdiff_t>& y_shape() const { return y_shape_; }

  const Spec spec;
  const Isa& isa;
  Number number;               // what elements are loaded as
  int arithmetic;              // the kernels' row in the table
  ptrdiff_t reals;             // lanes of an element
  ptrdiff_t real_bytes;        // of a lane
  ptrdiff_t lanes_per_vector;  // in elements
  int batch;                   // axes
  ptrdiff_t groups, outputs, inputs;
  ptrdiff_t taps;            // of one input channel
  ptrdiff_t padded_outputs;  // a whole number of vectors
  Extent extents[max_axes];  // batch..., G, spatial...
  int axes;                  // how many of them

 private:
  std::vector<ptrdiff_t> x_shape_, y_shape_;
};

}  // namespace xconv
