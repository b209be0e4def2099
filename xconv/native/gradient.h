// What the gradients by images and by kernels are given: a convolution as direct.h has it, with the
// gradient by its result, `gy`, in the place of y.
#pragma once

#include <vector>

#include "direct.h"

namespace xconv {

struct Gradient {
  using Sizes = std::vector<ptrdiff_t>;

  Type type;      // of gy and of the gradient
  Sizes x_shape;  // b, G, I, spatial...
  Sizes y_shape;  // b, G, O, positions...
  Sizes taps, stride, dilation, pad;

 protected:
  [[noreturn]] static void refuse(const char* why) { throw std::invalid_argument(why); }

  static void check_sizes(const Sizes& sizes) {
    for (const ptrdiff_t n : sizes) {
      if (n < 1) refuse("sizes must be at least 1");
    }
  }

  void check_shapes() const {
    const size_t rank = taps.size();
    if (rank == 0 || x_shape.size() != 3 + rank || y_shape.size() != 3 + rank ||
        stride.size() != rank || dilation.size() != rank || pad.size() != rank) {
      refuse("shapes, stride, dilation and pad must fit the number of taps' axes");
    }
    if (x_shape[0] != y_shape[0] || x_shape[1] != y_shape[1]) refuse("x and gy do not fit");
    for (const Sizes* sizes : {&x_shape, &y_shape, &taps, &stride, &dilation}) check_sizes(*sizes);
  }
};

}  // namespace xconv
