#include "sums.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "lane_sums.h"
#include "pool.h"
#include "traversal.h"

namespace xconv {
namespace {

using Sizes = PositionSums::Sizes;

constexpr ptrdiff_t chunk = 4096;   // elements of the total that are added up at a time
constexpr ptrdiff_t few_tiles = 8;  // for which lanes are not copied; five lose by it (Zen 5)

template <class Real>
void add_to(char* total_, const char* part_, ptrdiff_t n) {
  auto* total = reinterpret_cast<Real*>(total_);
  const auto* part = reinterpret_cast<const Real*>(part_);
  for (ptrdiff_t i = 0; i < n; ++i) total[i] += part[i];
}

// The elements of an array in C order, complex ones conjugated.
template <class Real, int reals>
void copy_conjugated(const char* from, const ptrdiff_t* strides, const ptrdiff_t* sizes, int axes,
                     Real*& to) {
  if (axes > 0) {
    for (ptrdiff_t i = 0; i < *sizes; ++i) {
      copy_conjugated<Real, reals>(from + i * *strides, strides + 1, sizes + 1, axes - 1, to);
    }
    return;
  }
  std::memcpy(to, from, sizeof(Real) * reals);
  if (reals == 2) to[1] = -to[1];
  to += reals;
}

// Memory that is kept from one block to the next, not filled, and from a line of the cache on.
class Kept {
 public:
  char* of(ptrdiff_t bytes) {
    if (bytes > bytes_) {
      memory_ = std::make_unique_for_overwrite<char[]>(size_t(bytes + Traversal::line_bytes));
      bytes_ = bytes;
    }
    char* const begin = memory_.get();
    return begin + (-reinterpret_cast<uintptr_t>(begin) & (Traversal::line_bytes - 1));
  }

 private:
  std::unique_ptr<char[]> memory_;
  ptrdiff_t bytes_ = 0;
};

// Of a worker: the sums of a block, and gy as the weights.
struct Scratch {
  Kept part, weights;
};

// The sums of one call.
class Run {
 public:
  Run(const PositionSums& sums, const Isa& isa, Array x, Array gy, int workers, size_t max_memory)
      : s_(sums), isa_(isa), x_(x), gy_(gy), item_(size_of(number_of(sums.type))) {
    outputs_ = s_.y_shape[2];
    inputs_ = s_.x_shape[2];
    groups_ = s_.y_shape[1];
    rest_ = outputs_ * inputs_ * product(s_.taps);
    lanes_ = s_.lanes(isa);
    const Number number = number_of(sums.type);
    widest_ = isa.vector_bytes / item_ * isa.vectors[int(number)][int(Op::layer)];
    for (size_t a = 0; a < s_.block.size(); ++a) {
      const ptrdiff_t size = s_.y_shape[a < 2 ? a : a + 1];
      counts_.push_back(ceil_div(size, s_.block[a]));
    }
    blocks_ = product(counts_);
    shares_ = std::min(s_.shares, blocks_);
    memory_ = max_memory / size_t(workers);
    totals_ = std::make_unique_for_overwrite<char[]>(size_t(shares_ * elements() * item_));
  }

  bool run(void* total, int workers, bool (*interrupted)()) {
    total_ = static_cast<char*>(total);
    std::vector<Scratch> scratch(size_t(std::min(ptrdiff_t(workers), shares_)));
    return run_tasks(shares_, workers, interrupted,
                     [&](int worker, ptrdiff_t i) { add(i, scratch[size_t(worker)]); }) &&
           run_tasks(ceil_div(elements(), chunk), workers, nullptr,
                     [&](int, ptrdiff_t i) { meet(i); });
  }

 private:
  ptrdiff_t elements() const { return groups_ * rest_; }

  void add_reals(char* to, const char* from, ptrdiff_t n) const {
    const bool is_double = s_.type == Type::float64 || s_.type == Type::complex128;
    const ptrdiff_t reals = n * item_ / (is_double ? 8 : 4);
    (is_double ? add_to<double> : add_to<float>)(to, from, reals);
  }

  // The blocks of a share, one after the other.
  void add(ptrdiff_t share, Scratch& scratch) {
    char* total = totals_.get() + share * elements() * item_;
    std::memset(total, 0, size_t(elements() * item_));
    const ptrdiff_t from = share * blocks_ / shares_, to = (share + 1) * blocks_ / shares_;
    for (ptrdiff_t i = from; i < to; ++i) add_block(i, total, scratch);
  }

  void add_block(ptrdiff_t index, char* total, Scratch& scratch) const {
    const size_t rank = s_.taps.size();
    Sizes from(2 + rank), size(2 + rank);
    for (size_t a = 2 + rank; a-- > 0; index /= counts_[a]) {
      from[a] = index % counts_[a] * s_.block[a];
      size[a] = std::min(s_.block[a], s_.y_shape[a < 2 ? a : a + 1] - from[a]);
    }
    if (lanes_ != 1 && add_lane_sums(s_, isa_, x_, gy_, from, size, total, strides(groups_)))
      return;
    Spec spec;
    spec.x_type = s_.x_type;
    spec.y_type = s_.type;
    spec.spatial = int(rank);
    spec.x_axes = {{inputs_, 2, 1}, {size[1], 1, 1}, {size[0], 0, 1}};
    spec.y_axes = {{inputs_, 2, 1}, {size[1], 0, 1}, {outputs_, 1, 1}};
    spec.kernel = {size[1], outputs_, size[0]};
    spec.stride = s_.dilation;
    spec.dilation = s_.stride;
    spec.boundary = s_.boundary;
    std::memcpy(spec.fill, s_.fill, sizeof spec.fill);
    const char* gy = gy_.data + from[0] * gy_.strides[0] + from[1] * gy_.strides[1];
    for (size_t s = 0; s < rank; ++s) {
      const int axis = int(3 + s);
      spec.x_axes.push_back({s_.x_shape[3 + s], axis, 1});
      spec.y_axes.push_back({s_.taps[s], axis, 1});
      spec.kernel.push_back(size[2 + s]);
      spec.pad.push_back(s_.pad[s] - from[2 + s] * s_.stride[s]);
      gy += from[2 + s] * gy_.strides[3 + s];
    }
    const Direct direct(std::move(spec), isa_);

    Sizes k_strides = {gy_.strides[1], gy_.strides[2], gy_.strides[0]};  // G, O, b, positions...
    k_strides.insert(k_strides.end(), gy_.strides + 3, gy_.strides + 3 + rank);
    const Array kernel{const_cast<char*>(gy), k_strides.data()};
    const Array x{x_.data + from[0] * x_.strides[0] + from[1] * x_.strides[1], x_.strides};
    const Sizes y_strides = strides(size[1]);
    char* const part = scratch.part.of(size[1] * rest_ * item_);
    direct.run(x, prepared(direct, kernel, scratch.weights), {part, y_strides.data()}, 1, memory_,
               nullptr);

    if (lanes_ != 0 || size[1] == groups_) {
      add_reals(total + from[1] * rest_ * (lanes_ != 0) * item_, part, size[1] * rest_);
      return;
    }
    for (ptrdiff_t r = 0; r < rest_; ++r) {
      add_reals(total + (r * groups_ + from[1]) * item_, part + r * size[1] * item_, size[1]);
    }
  }

  // Bytes from one element to the next of (G, O, I, taps...) with so many groups.
  Sizes strides(ptrdiff_t groups) const {
    Sizes sizes = {groups, outputs_, inputs_};
    sizes.insert(sizes.end(), s_.taps.begin(), s_.taps.end());
    Sizes steps(sizes.size());
    ptrdiff_t step = item_;
    auto put = [&](size_t a) {
      steps[a] = step;
      step *= sizes[a];
    };
    put(size_t(lanes_));
    for (size_t a = sizes.size(); a-- > 0;) {
      if (int(a) != lanes_) put(a);
    }
    return steps;
  }

  // gy as the kernel: where it lies if that is the order wanted, else copied.
  Weights prepared(const Direct& direct, const Array& kernel, Kept& kept) const {
    const Sizes& sizes = direct.spec.kernel;
    if (direct.turned() != Op::plain) {
      const ptrdiff_t row = row_of(direct, kernel);
      if (row > 0 && !worth_copying(direct, kernel.data, row)) return {nullptr, kernel.data, row};
      if (row > 0 && row == direct.padded_outputs) {
        char* const to = kept.of(product(sizes) * item_);
        std::memcpy(to, kernel.data, size_t(product(sizes) * item_));
        return {nullptr, to, row};
      }
      char* const to = kept.of(direct.turned_elements() * item_);
      direct.turn(kernel, to);
      return {nullptr, to};
    }
    char* const to = kept.of(product(sizes) * item_);
    const int axes = int(sizes.size());
    auto* floats = reinterpret_cast<float*>(to);
    auto* doubles = reinterpret_cast<double*>(to);
    switch (s_.type) {
      case Type::float32:
        copy_conjugated<float, 1>(kernel.data, kernel.strides, sizes.data(), axes, floats);
        break;
      case Type::float64:
        copy_conjugated<double, 1>(kernel.data, kernel.strides, sizes.data(), axes, doubles);
        break;
      case Type::complex64:
        copy_conjugated<float, 2>(kernel.data, kernel.strides, sizes.data(), axes, floats);
        break;
      default:
        copy_conjugated<double, 2>(kernel.data, kernel.strides, sizes.data(), axes, doubles);
    }
    return {to, nullptr};
  }

  // Vectors that cross lines of the cache take thrice the time to load, for each tile of taps.
  bool worth_copying(const Direct& direct, const char* lanes, ptrdiff_t row) const {
    const auto bytes = uintptr_t(isa_.vector_bytes);
    const bool aligned =
        reinterpret_cast<uintptr_t>(lanes) % bytes == 0 && uintptr_t(row * item_) % bytes == 0;
    return !aligned && direct.turned() == Op::layer &&
           inputs_ * product(s_.taps) >= few_tiles * isa_.rows[direct.arithmetic][int(Op::layer)];
  }

  // Elements from the lanes of one tap of the kernel to those of the next, if they lie like that.
  ptrdiff_t row_of(const Direct& direct, const Array& kernel) const {
    const Sizes& sizes = direct.spec.kernel;
    const bool layer = direct.turned() == Op::layer;
    const ptrdiff_t others = sizes[layer ? 0 : 1], lanes = sizes[layer ? 1 : 0];
    if (kernel.strides[layer ? 1 : 0] != item_ || others != 1) return 0;
    if (layer && (lanes != direct.padded_outputs || lanes > widest_)) return 0;
    ptrdiff_t row = 0, next = 0;
    for (size_t a = sizes.size(); a-- > 2;) {
      if (sizes[a] == 1) continue;
      if (row == 0) row = next = kernel.strides[a];
      if (kernel.strides[a] != next) return 0;
      next *= sizes[a];
    }
    if (row == 0) return lanes;
    return row % item_ == 0 && row / item_ >= lanes ? row / item_ : 0;
  }

  void meet(ptrdiff_t index) const {
    const ptrdiff_t from = index * chunk, n = std::min(chunk, elements() - from);
    char* to = total_ + from * item_;
    std::memcpy(to, totals_.get() + from * item_, size_t(n * item_));
    for (ptrdiff_t share = 1; share < shares_; ++share) {
      add_reals(to, totals_.get() + (share * elements() + from) * item_, n);
    }
  }

  const PositionSums& s_;
  const Isa& isa_;
  const Array x_, gy_;
  const ptrdiff_t item_;
  ptrdiff_t outputs_, inputs_, groups_, rest_;  // `rest_`: elements of one group's total
  int lanes_;
  ptrdiff_t widest_;  // lanes of a tile whose lanes are kernels
  Sizes counts_;      // of blocks along each axis
  ptrdiff_t blocks_, shares_;
  size_t memory_;  // of one block's Direct
  std::unique_ptr<char[]> totals_;
  char* total_ = nullptr;
};

}  // namespace

void PositionSums::check() const {
  if (type != Type::float32 && type != Type::float64 && type != Type::complex64 &&
      type != Type::complex128) {
    refuse("sums over positions are of float32, float64, complex64 or complex128");
  }
  check_shapes();
  if (block.size() != 2 + taps.size() || shares < 1) {
    refuse("block must fit the number of taps' axes");
  }
  check_sizes(block);
}

int PositionSums::lanes(const Isa& isa) const {
  const Op op = turned_op(isa, number_of(type), y_shape[1], y_shape[2]);
  return op == Op::layer ? 1 : op == Op::channels ? 0 : 2;
}

bool PositionSums::run(const Isa& isa, Array x, Array gy, void* total, int workers,
                       size_t max_memory, bool (*interrupted)()) const {
  workers = std::max(workers, 1);
  return Run(*this, isa, x, gy, workers, max_memory).run(total, workers, interrupted);
}

}  // namespace xconv
