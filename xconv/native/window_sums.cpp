#include "window_sums.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "pool.h"
#include "traversal.h"

namespace xconv {
namespace {

using Sizes = WindowSums::Sizes;

// In bytes, of a worker, unless a line needs more.
constexpr ptrdiff_t product_bytes = 512 * 1024, image_bytes = 256 * 1024;

template <class Real>
inline void add_run(char* to, const char* from, ptrdiff_t n) {
  auto* a = reinterpret_cast<Real*>(to);
  const auto* b = reinterpret_cast<const Real*>(from);
  for (ptrdiff_t i = 0; i < n; ++i) a[i] += b[i];
}

// The sums of one call.
class Run {
 public:
  Run(const WindowSums& sums, const Isa& isa, Array gx, Array gy, const char* weights, int workers,
      size_t max_memory)
      : s_(sums), isa_(isa), gx_(gx), gy_(gy), item_(size_of(sums.type)) {
    rank_ = s_.taps.size();
    inputs_ = s_.x_shape[2];
    outputs_ = s_.y_shape[2];
    windows_ = product(s_.taps) * inputs_;
    const ptrdiff_t width = isa.vector_bytes / item_;
    padded_ = ceil_div(windows_, width) * width;
    // Lines along the last axis, of all channels: gx itself where they are contiguous in it.
    const ptrdiff_t* steps = gx_.strides;
    in_place_ = (inputs_ == 1 || steps[2] == item_) && steps[2 + rank_] == inputs_ * item_;
    const ptrdiff_t slice = product(s_.x_shape, 4) * inputs_ * item_;  // of gx's first axis
    const ptrdiff_t positions = product(s_.y_shape, 4) * padded_ * item_;
    slice_ = std::clamp(image_bytes / slice, ptrdiff_t(1), s_.x_shape[3]);
    rows_ = std::clamp(product_bytes / positions, ptrdiff_t(1), s_.y_shape[3]);
    const Direct direct = products(rows_);
    memory_ = direct.scratch(1);
    for (;; rows_ = ceil_div(rows_, 2), slice_ = ceil_div(slice_, 2)) {
      product_size_ = size_t(rows_ * positions);
      scratch_ = (product_size_ + (in_place_ ? 0 : size_t(slice_ * slice)) + 63) / 64 * 64;
      if ((scratch_ + memory_) * size_t(workers) <= max_memory) break;
      if (rows_ == 1 && slice_ == 1) {
        throw ScratchError("max_memory does not hold the products of a line");
      }
    }
    scratch_memory_ = std::make_unique_for_overwrite<char[]>(scratch_ * size_t(workers));
    slices_ = ceil_div(s_.x_shape[3], slice_);

    // (G, O, kernels), the kernels padded to whole vectors, and as the core wants them.
    const ptrdiff_t groups = s_.y_shape[1];
    std::vector<char> wide(size_t(groups * outputs_ * padded_ * item_));
    for (ptrdiff_t r = 0; r < groups * outputs_; ++r) {
      std::memcpy(wide.data() + r * padded_ * item_, weights + r * windows_ * item_,
                  size_t(windows_ * item_));
    }
    group_ = direct.turned_elements() * item_;
    turned_.resize(size_t(groups * group_));
    Sizes k_steps = {0, item_, padded_ * item_};
    k_steps.resize(3 + rank_, item_);
    for (ptrdiff_t g = 0; g < groups; ++g) {
      direct.turn({wide.data() + g * outputs_ * padded_ * item_, k_steps.data()},
                  turned_.data() + g * group_);
    }
  }

  bool run(int workers, bool (*interrupted)()) {
    return run_tasks(s_.x_shape[0] * s_.x_shape[1] * slices_, workers, interrupted,
                     [&](int worker, ptrdiff_t i) { task(worker, i); });
  }

 private:
  // All products of so many slices of positions along the first axis.
  Direct products(ptrdiff_t rows) const {
    Spec spec;
    spec.x_type = spec.y_type = s_.type;
    spec.spatial = int(rank_);
    spec.x_axes = {{1, -1, 1}, {outputs_, 0, 1}};
    spec.y_axes = {{1, -1, 1}, {padded_, int(rank_), 1}};
    spec.kernel = {1, padded_, outputs_};
    for (size_t a = 0; a < rank_; ++a) {
      const ptrdiff_t n = a == 0 ? rows : s_.y_shape[3 + a];
      spec.x_axes.push_back({n, int(1 + a), 1});
      spec.y_axes.push_back({n, int(a), 1});
    }
    spec.kernel.resize(3 + rank_, 1);
    spec.stride.assign(rank_, 1);
    spec.dilation.assign(rank_, 1);
    spec.pad.assign(rank_, 0);
    return Direct(std::move(spec), isa_);
  }

  // Bytes from one element to the next along the spatial axes of a shape, in C order.
  static Sizes steps_of(const Sizes& shape, ptrdiff_t step) {
    Sizes steps(shape.size() - 3);
    for (size_t a = steps.size(); a-- > 0; step *= shape[3 + a]) steps[a] = step;
    return steps;
  }

  struct Slice {
    ptrdiff_t from, to;      // along the first axis of gx
    char* image;             // where index 0 would lie
    const ptrdiff_t* steps;  // bytes, of the spatial axes
  };

  void task(int worker, ptrdiff_t index) {
    char* const scratch = scratch_memory_.get() + size_t(worker) * scratch_;
    Slice slice;
    slice.from = index % slices_ * slice_;
    slice.to = std::min(slice.from + slice_, s_.x_shape[3]);
    const ptrdiff_t b = index / slices_ / s_.x_shape[1], g = index / slices_ % s_.x_shape[1];
    char* const user = gx_.data + b * gx_.strides[0] + g * gx_.strides[1];
    const Sizes in_scratch = steps_of(s_.x_shape, inputs_ * item_);
    const ptrdiff_t* steps = in_place_ ? gx_.strides + 3 : in_scratch.data();
    slice.steps = steps;
    slice.image = in_place_ ? user : scratch + product_size_ - slice.from * steps[0];
    clear(0, slice, slice.image);

    const ptrdiff_t reach = (s_.taps[0] - 1) * s_.dilation[0];
    const ptrdiff_t first = ceil_div(slice.from + s_.pad[0] - reach, s_.stride[0]);
    const ptrdiff_t last = floor_div(slice.to - 1 + s_.pad[0], s_.stride[0]);
    const ptrdiff_t end = std::min(last + 1, s_.y_shape[3]);
    for (ptrdiff_t p = std::max(first, ptrdiff_t(0)); p < end; p += rows_) {
      const ptrdiff_t rows = std::min(rows_, end - p);
      multiply(b, g, p, rows, scratch);
      add(p, rows, slice, scratch);
    }
    if (!in_place_) copy(0, slice, slice.image, user);
  }

  ptrdiff_t from(const Slice& slice, size_t axis) const { return axis == 0 ? slice.from : 0; }
  ptrdiff_t to(const Slice& slice, size_t axis) const {
    return axis == 0 ? slice.to : s_.x_shape[3 + axis];
  }

  void clear(size_t axis, const Slice& slice, char* at) const {
    const ptrdiff_t low = from(slice, axis), high = to(slice, axis);
    if (axis + 1 == rank_) {
      std::memset(at + low * slice.steps[axis], 0, size_t((high - low) * inputs_ * item_));
      return;
    }
    for (ptrdiff_t i = low; i < high; ++i) clear(axis + 1, slice, at + i * slice.steps[axis]);
  }

  void copy(size_t axis, const Slice& slice, const char* at, char* user) const {
    const ptrdiff_t step = slice.steps[axis], user_step = gx_.strides[3 + axis];
    const ptrdiff_t low = from(slice, axis), high = to(slice, axis);
    if (axis + 1 < rank_) {
      for (ptrdiff_t i = low; i < high; ++i)
        copy(axis + 1, slice, at + i * step, user + i * user_step);
      return;
    }
    for (ptrdiff_t c = 0; c < inputs_; ++c, at += item_, user += gx_.strides[2]) {
      const auto elements = item_ == 4 ? copy_elements<uint32_t> : copy_elements<uint64_t>;
      elements(at + low * step, step, user + low * user_step, user_step, high - low);
    }
  }

  template <class Bits>
  static void copy_elements(const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step,
                            ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; ++i)
      std::memcpy(to + i * to_step, from + i * from_step, sizeof(Bits));
  }

  void multiply(ptrdiff_t b, ptrdiff_t g, ptrdiff_t first, ptrdiff_t rows, char* to) const {
    const char* gy = gy_.data + b * gy_.strides[0] + g * gy_.strides[1] + first * gy_.strides[3];
    Sizes x_steps = {gy_.strides[2]}, y_steps = steps_of(s_.y_shape, padded_ * item_);
    x_steps.insert(x_steps.end(), gy_.strides + 3, gy_.strides + 3 + rank_);
    y_steps.push_back(item_);
    const Weights weights = {nullptr, turned_.data() + g * group_};
    products(rows).run({const_cast<char*>(gy), x_steps.data()}, weights, {to, y_steps.data()}, 1,
                       memory_, nullptr);
  }

  // A line of gx that taps of the axes but the last add to, and their products' offset.
  struct Line {
    char* to;
    ptrdiff_t from;
  };

  void add(ptrdiff_t first, ptrdiff_t rows, const Slice& slice, const char* products) const {
    std::vector<Line> lines;
    const ptrdiff_t n = rank_ > 1 ? s_.y_shape[2 + rank_] : rows;
    const ptrdiff_t count = rank_ > 1 ? rows * product(s_.y_shape, 4) / n : 1;
    for (ptrdiff_t line = 0; line < count; ++line, products += n * padded_ * item_) {
      lines.clear();
      find_lines(line, 0, first, rows, slice, slice.image, 0, lines);
      if (item_ == 4) add_line<float>(lines, rank_ > 1 ? 0 : first, n, slice, products);
      if (item_ == 8) add_line<double>(lines, rank_ > 1 ? 0 : first, n, slice, products);
    }
  }

  // Of the positions number `line` of the axes but the last.
  void find_lines(ptrdiff_t line, size_t axis, ptrdiff_t first, ptrdiff_t rows, const Slice& slice,
                  char* at, ptrdiff_t tap, std::vector<Line>& lines) const {
    if (axis + 1 == rank_) {
      lines.push_back({at, tap * s_.taps[axis] * inputs_ * item_});
      return;
    }
    ptrdiff_t inner = 1;
    for (size_t a = axis + 1; a + 1 < rank_; ++a) inner *= s_.y_shape[3 + a];
    const ptrdiff_t p = line / inner + (axis == 0 ? first : 0);
    for (ptrdiff_t t = 0; t < s_.taps[axis]; ++t) {
      const ptrdiff_t q = p * s_.stride[axis] + t * s_.dilation[axis] - s_.pad[axis];
      if (q < from(slice, axis) || q >= to(slice, axis)) continue;
      find_lines(line % inner, axis + 1, first, rows, slice, at + q * slice.steps[axis],
                 tap * s_.taps[axis] + t, lines);
    }
  }

  template <class Real>
  void add_line(const std::vector<Line>& lines, ptrdiff_t first, ptrdiff_t n, const Slice& slice,
                const char* products) const {
    const size_t axis = rank_ - 1;
    const ptrdiff_t taps = s_.taps[axis], d = s_.dilation[axis], pixel = inputs_ * item_;
    const ptrdiff_t low = from(slice, axis), high = to(slice, axis);
    auto add_window = [&](ptrdiff_t p) {
      const ptrdiff_t q = p * s_.stride[axis] - s_.pad[axis];
      const char* at = products + (p - first) * padded_ * item_;
      if (d == 1) {
        const ptrdiff_t begin = std::max(low - q, ptrdiff_t(0)), end = std::min(high - q, taps);
        for (const Line& line : lines) {
          add_run<Real>(line.to + (q + begin) * pixel, at + line.from + begin * pixel,
                        (end - begin) * inputs_);
        }
        return;
      }
      for (ptrdiff_t t = 0; t < taps; ++t) {
        if (q + t * d < low || q + t * d >= high) continue;
        for (const Line& line : lines)
          add_run<Real>(line.to + (q + t * d) * pixel, at + line.from + t * pixel, inputs_);
      }
    };
    // Windows that do not overlap, then the next: a processor waits long for what it just wrote.
    // A line is always added as a whole, but where it is the first axis.
    const ptrdiff_t apart = rank_ == 1 ? 1 : ceil_div((taps - 1) * d + 1, s_.stride[axis]);
    for (ptrdiff_t begin = 0; begin < std::min(apart, n); ++begin) {
      for (ptrdiff_t p = begin; p < n; p += apart) add_window(first + p);
    }
  }

  const WindowSums& s_;
  const Isa& isa_;
  const Array gx_, gy_;
  const ptrdiff_t item_;
  size_t rank_;
  ptrdiff_t inputs_, outputs_, windows_, padded_;  // taps of all channels; whole vectors of them
  bool in_place_;
  ptrdiff_t slice_, slices_, rows_;  // of gx, and of positions, along the first axis
  size_t product_size_, scratch_, memory_;
  std::unique_ptr<char[]> scratch_memory_;
  std::vector<char> turned_;
  ptrdiff_t group_;  // bytes of a group's weights
};

}  // namespace

void WindowSums::check() const {
  if (type != Type::float32 && type != Type::float64)
    refuse("window sums are of floats or doubles");
  check_shapes();
}

bool WindowSums::run(const Isa& isa, Array gx, Array gy, const void* weights, int workers,
                     size_t max_memory, bool (*interrupted)()) const {
  workers = std::max(workers, 1);
  return Run(*this, isa, gx, gy, static_cast<const char*>(weights), workers, max_memory)
      .run(workers, interrupted);
}

}  // namespace xconv
