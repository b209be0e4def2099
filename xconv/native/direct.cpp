#include "direct.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "transpose.h"
#include "traversal.h"

namespace xconv {
namespace {

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

// Offsets are sums of a few products: kept far below the largest ptrdiff_t.
constexpr ptrdiff_t largest = ptrdiff_t(1) << 46;

void check_between(const char* what, ptrdiff_t value, ptrdiff_t low) {
  if (value < low || value > largest) {
    refuse(std::string(what) + " is " + std::to_string(value) + "; it must be at least " +
           std::to_string(low) + " and at most 2**46");
  }
}

ptrdiff_t product(ptrdiff_t a, ptrdiff_t b) {
  ptrdiff_t result;
  if (__builtin_mul_overflow(a, b, &result) || result > largest || result < -largest) {
    refuse("sizes are too large to index");
  }
  return result;
}

// The length of each axis of the user's array that canonical axes with these sizes lie in.
std::vector<ptrdiff_t> shape_of(const std::vector<Axis>& axes, const char* name) {
  std::vector<ptrdiff_t> shape;
  for (const Axis& axis : axes) {
    check_between((std::string(name) + " axis size").c_str(), axis.size, 0);
    if (axis.of < -1 || axis.of >= max_user_axes) {
      refuse(std::string(name) + " axes refer to axis " + std::to_string(axis.of) +
             "; an array has at most 64");
    }
    if (axis.of < 0 && axis.size != 1) {
      refuse(std::string(name) + " axis that is absent has a size other than 1");
    }
    if (axis.of >= int(shape.size())) shape.resize(size_t(axis.of) + 1, 1);
  }
  for (int j = 0; j < int(shape.size()); ++j) {
    bool empty = false;
    for (const Axis& axis : axes) {
      if (axis.of != j) continue;
      check_between("step", axis.step, 1);
      empty |= axis.size == 0;
      shape[size_t(j)] += product(std::max(axis.size - 1, ptrdiff_t(0)), axis.step);
    }
    if (empty) shape[size_t(j)] = 0;
  }
  return shape;
}

}  // namespace

Number number_of(Type result) {
  static constexpr Number of[types] = {
      Number::boolean, Number::uint8,   Number::uint8,     Number::uint16,    Number::uint16,
      Number::uint32,  Number::uint32,  Number::uint64,    Number::uint64,    Number::half,
      Number::float32, Number::float64, Number::complex64, Number::complex128};
  return of[int(result)];
}

ptrdiff_t size_of(Type type) {
  static constexpr ptrdiff_t sizes[types] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8, 8, 16};
  return sizes[int(type)];
}

ptrdiff_t size_of(Number number) {
  static constexpr ptrdiff_t sizes[numbers] = {4, 8, 8, 16, 1, 2, 4, 8, 1, 4};
  return sizes[int(number)];
}

Direct::Direct(Spec given, const Isa& isa_) : spec(std::move(given)), isa(isa_) {
  number = number_of(spec.y_type);
  if (!isa.load[int(spec.x_type)][int(number)]) {
    refuse(std::string("values of this type cannot be converted to the result's without loss"));
  }
  const bool complex = number == Number::complex64 || number == Number::complex128;
  if (spec.kernel_is_real && !complex) refuse("kernel_is_real is for complex results");
  reals = complex ? 2 : 1;
  real_bytes = size_of(number) / reals;
  arithmetic = int(number == Number::half        ? Number::float32
                   : !spec.kernel_is_real        ? number
                   : number == Number::complex64 ? Number::float32
                                                 : Number::float64);
  lanes_per_vector = isa.vector_bytes / size_of(number);

  const int rank = spec.spatial;
  const int count = int(spec.x_axes.size());
  batch = count - rank - 2;
  axes = batch + 1 + rank;
  if (rank < 1 || batch < 0 || count > max_axes || spec.y_axes.size() != spec.x_axes.size()) {
    refuse("x_axes and y_axes must be batch, G, I or O, and at least one spatial axis");
  }
  const auto n = size_t(rank);
  if (spec.kernel.size() != n + 3 || spec.stride.size() != n || spec.dilation.size() != n ||
      spec.pad.size() != n) {
    refuse("kernel_shape, stride, dilation and pad_lo must fit the number of spatial axes");
  }
  x_shape_ = shape_of(spec.x_axes, "x");
  y_shape_ = shape_of(spec.y_axes, "y");
  groups = spec.kernel[0];
  outputs = spec.kernel[1];
  inputs = spec.kernel[2];
  padded_outputs = ceil_div(outputs, lanes_per_vector) * lanes_per_vector;
  check_between("number of groups", groups, 0);
  check_between("number of kernels", outputs, 0);
  check_between("number of summed channels", inputs, 1);
  if (spec.x_axes[size_t(batch)].size != groups || spec.y_axes[size_t(batch)].size != groups ||
      spec.x_axes[size_t(batch) + 1].size != inputs ||
      spec.y_axes[size_t(batch) + 1].size != outputs) {
    refuse("the axes G, I and O of x and y must have the kernel's sizes");
  }
  ptrdiff_t total = groups;
  for (int a = 0; a <= batch; ++a) {
    const ptrdiff_t size = spec.x_axes[size_t(a)].size;
    if (spec.y_axes[size_t(a)].size != size) refuse("batch axes of x and y must have equal sizes");
    extents[a] = {size, size, 1, 1, 1, 0};
    if (a < batch) total = product(total, size);
  }
  taps = 1;
  ptrdiff_t windows = inputs;
  for (int s = 0; s < rank; ++s) {
    const auto i = size_t(s), at = size_t(batch + 2 + s);
    Extent& e = extents[batch + 1 + s];
    e = {spec.y_axes[at].size, spec.x_axes[at].size, spec.kernel[i + 3],
         spec.stride[i],       spec.dilation[i],     spec.pad[i]};
    check_between("kernel size", e.taps, 1);
    check_between("stride", e.stride, 1);
    check_between("dilation", e.dilation, 1);
    if (e.pad < -largest || e.pad > largest) refuse("padding is too large");
    product(e.outputs, e.stride);
    windows = product(windows, product(e.taps, e.dilation));
    taps = product(taps, e.taps);
    total = product(total, e.outputs);
    if (e.inputs == 0 && e.outputs > 0 && spec.boundary != Boundary::constant) {
      refuse("an image of size zero has nothing to continue");
    }
  }
  product(product(total, outputs), 16);
  product(product(product(product(taps, inputs), padded_outputs), groups), 16);
  product(windows, 64 * 64);
}

Op turned_op(const Isa& isa, Number number, ptrdiff_t groups, ptrdiff_t outputs) {
  const bool half = number == Number::half;
  const ptrdiff_t width = isa.vector_bytes / size_of(number);
  if (isa.rows[int(half ? Number::float32 : number)][int(Op::layer)] == 0) return Op::plain;
  if (2 * outputs > width && !half) return Op::layer;
  return groups >= width ? Op::channels : Op::plain;
}

ptrdiff_t Direct::turned_elements() const {
  const Op op = turned();
  if (op == Op::plain) return 0;
  return groups * (op == Op::layer ? padded_outputs : outputs) * inputs * taps;
}

// `layer`: G, vectors of kernels, I, spatial..., kernels of a vector; `channels`: O, I, spatial...,
// G.
void Direct::turn(Array plain, void* turned_) const {
  const Op op = turned();
  if (op == Op::plain) return;
  const bool layer = op == Op::layer;
  const ptrdiff_t item = size_of(number), n = inputs * taps, width = lanes_per_vector;
  const ptrdiff_t others = layer ? groups : outputs, lanes = layer ? outputs : groups;
  const ptrdiff_t other_step = plain.strides[layer ? 0 : 1], lane_step = plain.strides[layer];
  const ptrdiff_t step = layer ? width : groups;
  auto* to = static_cast<char*>(turned_);
  if (turned_elements() > others * lanes * n) std::memset(to, 0, size_t(turned_elements() * item));
  auto copy_lanes = [&](const char* from, char* target, ptrdiff_t count) {
    if (lane_step == item) {
      std::memcpy(target, from, size_t(count * item));
    } else if (item == 4) {
      for (ptrdiff_t l = 0; l < count; ++l) std::memcpy(target + l * 4, from + l * lane_step, 4);
    } else {
      for (ptrdiff_t l = 0; l < count; ++l) std::memcpy(target + l * 8, from + l * lane_step, 8);
    }
  };
  // The last axes, where they are one run of memory.
  int rank = int(spec.kernel.size());
  ptrdiff_t run = 1;
  while (rank > 2 && (spec.kernel[size_t(rank) - 1] == 1 || plain.strides[rank - 1] == run * item))
    run *= spec.kernel[size_t(--rank)];
  for (ptrdiff_t e = 0; e < others; ++e) {
    for (ptrdiff_t first = 0; first < lanes; first += width) {
      const ptrdiff_t count = std::min(width, lanes - first);
      const char* from = plain.data + e * other_step + first * lane_step;
      char* target =
          to + (layer ? (e * padded_outputs + first) * n : e * n * groups + first) * item;
      ptrdiff_t position[max_axes] = {};
      for (ptrdiff_t t = 0; t < n; t += run, target += run * step * item) {
        if (run == 1) {
          copy_lanes(from, target, count);
        } else {
          transpose(item, from, lane_step, target, step * item, count, run);
        }
        for (int a = rank - 1; a >= 2; --a) {
          from += plain.strides[a];
          if (++position[a] < spec.kernel[size_t(a)]) break;
          from -= position[a] * plain.strides[a];
          position[a] = 0;
        }
      }
    }
  }
}

bool Direct::run(Array x, Weights w, Array y, int workers, size_t max_memory,
                 bool (*interrupted)()) const {
  for (const Axis& axis : spec.y_axes) {
    if (axis.size == 0) return true;
  }
  Traversal traversal(*this, x, w, y, std::max(workers, 1), max_memory);
  return traversal.run(interrupted);
}

size_t Direct::scratch(int workers) const {
  workers = std::max(workers, 1);
  const ptrdiff_t block = turned() != Op::plain ? Traversal::turned_bytes : Traversal::block_bytes;
  return std::max(Traversal::least(*this, workers),
                  size_t(workers) * size_t(block) + Traversal::tables(*this));
}

size_t Direct::least(int workers) const { return Traversal::least(*this, std::max(workers, 1)); }

}  // namespace xconv
