#include "window_sums.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>

#include "pool.h"
#include "transpose.h"
#include "traversal.h"

namespace xconv {
namespace {

using Sizes = WindowSums::Sizes;

// Scratch of a worker in bytes, unless lines of gx would be cut to parts of less than half so many
// times what windows reach: each part computes again some products of the one before.
constexpr ptrdiff_t near_bytes = 160 * 1024, long_line = 64;
constexpr ptrdiff_t tasks_of_worker = 4;
// For so many tiles lines of gy are copied to whole vectors, as loads that cross lines of the cache
// take thrice the time; five tiles lose by it (Zen 5).
constexpr ptrdiff_t many_tiles = 8;

// A gradient of one spatial axis as one of two.
WindowSums with_lines(WindowSums sums) {
  if (sums.taps.size() > 1) return sums;
  for (Sizes* sizes : {&sums.x_shape, &sums.y_shape}) sizes->insert(sizes->begin() + 3, 1);
  for (Sizes* sizes : {&sums.taps, &sums.stride, &sums.dilation}) sizes->insert(sizes->begin(), 1);
  sums.pad.insert(sums.pad.begin(), 0);
  return sums;
}

// Those that go with it.
Sizes strides_of(const Array& array, size_t rank) {
  Sizes strides(array.strides, array.strides + 3 + rank);
  if (rank == 1) strides.insert(strides.begin() + 3, 0);
  return strides;
}

template <class Bits>
void copy_elements(const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step,
                   ptrdiff_t n) {
  for (ptrdiff_t i = 0; i < n; ++i)
    std::memcpy(to + i * to_step, from + i * from_step, sizeof(Bits));
}

// The sums of one call.  Lines lie along the last axis, one over the other along the one before it.
// The products of a line of positions with all taps are computed once, and kept until the lines of
// gx that they are added to are done.
class Run {
 public:
  Run(const WindowSums& sums, const Isa& isa, Array gx, Array gy, const char* weights, int workers,
      size_t max_memory)
      : s_(with_lines(sums)),
        gx_steps_(strides_of(gx, sums.taps.size())),
        gy_steps_(strides_of(gy, sums.taps.size())),
        gx_{gx.data, gx_steps_.data()},
        gy_{gy.data, gy_steps_.data()},
        weights_(weights),
        isa_(isa),
        item_(size_of(sums.type)),
        number_(int(number_of(sums.type))),
        width_(isa.vector_bytes / item_),
        last_(s_.taps.size() - 1),
        over_(last_ - 1),
        inputs_(s_.x_shape[2]),
        outputs_(s_.y_shape[2]),
        columns_(s_.x_shape[3 + last_]) {
    rows_ = s_.taps[over_] * s_.taps[last_] * inputs_;
    kept_ = std::min(reach(over_) / s_.stride[over_] + 1, s_.y_shape[3 + over_]);
    images_ = 1;
    ptrdiff_t most_images = 1;
    for (size_t a = 0; a < over_; ++a) {
      images_ *= s_.x_shape[3 + a];
      most_images *= std::min(s_.taps[a], s_.y_shape[3 + a]);
    }
    const ptrdiff_t short_line = std::max(long_line * reach(last_), 4 * width_);
    for (;; columns_ = ceil_div(columns_, 2)) {
      lay_out(most_images);
      const bool fits = size_t(scratch_ * workers + 64) <= max_memory;
      if (fits && (scratch_ <= near_bytes || columns_ <= short_line)) break;
      if (columns_ == 1) throw ScratchError("max_memory does not hold the products of a column");
    }
    scratch_memory_ = std::make_unique_for_overwrite<char[]>(size_t(scratch_ * workers + 64));
    first_scratch_ = scratch_memory_.get();
    first_scratch_ += -reinterpret_cast<uintptr_t>(first_scratch_) & 63;
    parts_ = ceil_div(s_.x_shape[3 + last_], columns_);
    // Slices of many lines, as each needs some products again that the one before it had.
    const ptrdiff_t lines = s_.x_shape[3 + over_];
    const ptrdiff_t others = s_.x_shape[0] * s_.x_shape[1] * images_ * parts_;
    const ptrdiff_t wanted = ceil_div(tasks_of_worker * workers, others);
    slice_ = std::max(ceil_div(lines, wanted), 4 * (reach(over_) + 1));
    slices_ = ceil_div(lines, slice_);

    for (ptrdiff_t q = 0; q < lines; ++q) {
      each_meeting(over_, q, [&](ptrdiff_t t, ptrdiff_t p) {
        line_terms_.push_back(p % kept_ * slot_ + t * s_.taps[last_] * inputs_ * row_);
      });
      line_ends_.push_back(line_terms_.size());
    }
    for (ptrdiff_t o = 0; o < outputs_; ++o) {
      channels_.push_back(o * gy_.strides[2] / item_);
      gathered_channels_.push_back(o * channel_);
    }
    products_rows_ = dealt(Op::bank, rows_);
    in_place_ = gy_.strides[3 + last_] == item_ && gy_.strides[2] % item_ == 0 &&
                ptrdiff_t(products_rows_.size()) < many_tiles;
    finite_ = item_ == 4 ? are_finite<float>() : are_finite<double>();
    sums_rows_ = dealt(Op::plain, inputs_);
    const ptrdiff_t terms = most_images * s_.taps[over_] * s_.taps[last_];
    ones_.resize(size_t(terms * item_));
    if (item_ == 4) std::fill_n(reinterpret_cast<float*>(ones_.data()), terms, 1.0f);
    if (item_ == 8) std::fill_n(reinterpret_cast<double*>(ones_.data()), terms, 1.0);
  }

  bool run(int workers, bool (*interrupted)()) {
    return run_tasks(s_.x_shape[0] * s_.x_shape[1] * images_ * slices_ * parts_, workers,
                     interrupted, [&](int worker, ptrdiff_t i) { task(worker, i); });
  }

 private:
  ptrdiff_t reach(size_t axis) const { return (s_.taps[axis] - 1) * s_.dilation[axis]; }

  // Positions whose windows, of the axis, an index of gx may lie in.
  ptrdiff_t first_position(size_t axis, ptrdiff_t q) const {
    return ceil_div(q + s_.pad[axis] - reach(axis), s_.stride[axis]);
  }
  ptrdiff_t last_position(size_t axis, ptrdiff_t q) const {
    return floor_div(q + s_.pad[axis], s_.stride[axis]);
  }

  // Of a worker: a line of gy, the products, and a line of gx, each with room for whole vectors.
  void lay_out(ptrdiff_t most_images) {
    const ptrdiff_t positions = (columns_ - 1 + reach(last_)) / s_.stride[last_] + 1;
    row_ = positions + width_;
    slot_ = most_images * rows_ * row_;
    channel_ = ceil_div(positions, width_) * width_;
    gathered_ = outputs_ * channel_;
    line_ = ceil_div(columns_, s_.stride[last_]) + width_;
    scratch_ = (gathered_ + kept_ * slot_ + inputs_ * line_) * item_;
    scratch_ = (scratch_ + 63) / 64 * 64;
  }

  // A line of positions, and the taps of the axes before that it meets an image of gx with.
  struct Term {
    const char* gy;
    ptrdiff_t tap;
  };

  struct Block {
    ptrdiff_t from, to;   // columns of gx
    ptrdiff_t first;      // position whose products are kept, if only as zeros
    ptrdiff_t low, high;  // those that there are
    char* gx;
    const char* weights;
    char *gathered, *products, *line;
    std::vector<Term> images;
    std::vector<Sizes> columns;  // of each phase: offsets of the products
    Sizes lines;                 // and those of the lines of gy that meet a line of gx
  };

  void task(int worker, ptrdiff_t index) const {
    Block block;
    block.from = index % parts_ * columns_;
    block.to = std::min(block.from + columns_, s_.x_shape[3 + last_]);
    index /= parts_;
    const ptrdiff_t from = index % slices_ * slice_;
    const ptrdiff_t to = std::min(from + slice_, s_.x_shape[3 + over_]);
    index /= slices_;
    const ptrdiff_t image = index % images_;
    index /= images_;
    const ptrdiff_t b = index / s_.x_shape[1], g = index % s_.x_shape[1];
    block.gathered = first_scratch_ + worker * scratch_;
    block.products = block.gathered + gathered_ * item_;
    block.line = block.products + kept_ * slot_ * item_;
    block.weights = weights_ + g * product(s_.taps) * inputs_ * outputs_ * item_;
    block.gx = gx_.data + b * gx_.strides[0] + g * gx_.strides[1];
    block.gx += block.from * gx_.strides[3 + last_];
    block.first = first_position(last_, block.from);
    block.low = std::max(block.first, ptrdiff_t(0));
    block.high = std::min(last_position(last_, block.to - 1) + 1, s_.y_shape[3 + last_]);
    find_images(image, gy_.data + b * gy_.strides[0] + g * gy_.strides[1], block);
    std::memset(block.gathered, 0, size_t((gathered_ + kept_ * slot_) * item_));

    const ptrdiff_t phases = std::min(s_.stride[last_], block.to - block.from);
    block.columns.resize(size_t(phases));
    for (ptrdiff_t phase = 0; phase < phases; ++phase) find_columns(block, phase);
    ptrdiff_t next = std::max(first_position(over_, from), ptrdiff_t(0));
    for (ptrdiff_t q = from; q < to; ++q) {
      const ptrdiff_t end = std::min(last_position(over_, q) + 1, s_.y_shape[3 + over_]);
      for (; next < end; ++next) multiply(block, next);
      for (ptrdiff_t phase = 0; phase < phases; ++phase) add(block, q, phase);
    }
  }

  // Of an axis, the taps and positions that meet at index q.
  template <class Visit>
  void each_meeting(size_t axis, ptrdiff_t q, const Visit& visit) const {
    for (ptrdiff_t t = 0; t < s_.taps[axis]; ++t) {
      const ptrdiff_t at = q + s_.pad[axis] - t * s_.dilation[axis], p = at / s_.stride[axis];
      if (at >= 0 && at % s_.stride[axis] == 0 && p < s_.y_shape[3 + axis]) visit(t, p);
    }
  }

  // The images of gy that meet an image of gx, which has that number.
  void find_images(ptrdiff_t number, const char* gy, Block& block) const {
    block.images = {{gy, 0}};
    ptrdiff_t images = images_;
    for (size_t a = 0; a < over_; ++a) {
      images /= s_.x_shape[3 + a];
      const ptrdiff_t q = number / images % s_.x_shape[3 + a];
      block.gx += q * gx_.strides[3 + a];
      std::vector<Term> longer;
      for (const Term& term : block.images) {
        each_meeting(a, q, [&](ptrdiff_t t, ptrdiff_t p) {
          longer.push_back({term.gy + p * gy_.strides[3 + a], term.tap * s_.taps[a] + t});
        });
      }
      block.images = std::move(longer);
    }
  }

  // The products of a line of each image with its taps.
  void multiply(const Block& block, ptrdiff_t position) const {
    if (block.high <= block.low) return;
    const ptrdiff_t n = block.high - block.low, step = gy_.strides[3 + last_];
    const bool in_place = in_place_ && n >= width_;
    const ptrdiff_t lanes = in_place ? n : ceil_div(n, width_) * width_;
    Tile tile = one_run(in_place ? channels_ : gathered_channels_);
    tile.y_row = row_;
    tile.w_row = outputs_;
    char* to = block.products;
    to += (position % kept_ * slot_ + block.low - block.first) * item_;
    for (const Term& image : block.images) {
      const char* gy = image.gy + position * gy_.strides[3 + over_] + block.low * step;
      if (!in_place) {
        gather(gy, n, block.gathered);
        gy = block.gathered;
      }
      const char* weights = block.weights + image.tap * rows_ * outputs_ * item_;
      for (const auto& [kernel, row] : products_rows_)
        kernel(tile, gy, weights + row * outputs_ * item_, to + row * row_ * item_, lanes);
      for (ptrdiff_t row = 0; row < rows_ && n < lanes && !finite_; ++row)
        std::memset(to + (row * row_ + n) * item_, 0, size_t((lanes - n) * item_));
      to += rows_ * row_ * item_;
    }
  }

  // Channels one after the other, in whole vectors whose last lanes are zeros.
  void gather(const char* gy, ptrdiff_t n, char* to) const {
    const ptrdiff_t position = gy_.strides[3 + last_], channel = gy_.strides[2];
    const ptrdiff_t step = channel_ * item_;
    if (channel == item_) return transpose(item_, gy, position, to, step, n, outputs_);
    for (ptrdiff_t o = 0; o < outputs_; ++o)
      copy(gy + o * channel, position, to + o * step, item_, n);
  }

  void copy(const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step, ptrdiff_t n) const {
    if (from_step == item_ && to_step == item_) {
      std::memcpy(to, from, size_t(n * item_));
      return;
    }
    const auto elements = item_ == 4 ? copy_elements<uint32_t> : copy_elements<uint64_t>;
    elements(from, from_step, to, to_step, n);
  }

  // The taps of the last axis that meet column `phase` and all that lie the stride apart from it.
  void find_columns(Block& block, ptrdiff_t phase) const {
    Sizes& terms = block.columns[size_t(phase)];
    for (ptrdiff_t t = 0; t < s_.taps[last_]; ++t) {
      const ptrdiff_t at = block.from + phase + s_.pad[last_] - t * s_.dilation[last_];
      const ptrdiff_t position = floor_div(at, s_.stride[last_]);
      if (position * s_.stride[last_] == at)
        terms.push_back(t * inputs_ * row_ + position - block.first);
    }
  }

  // These columns of a line of gx.
  void add(Block& block, ptrdiff_t q, ptrdiff_t phase) const {
    const ptrdiff_t stride = s_.stride[last_];
    block.lines.clear();
    for (size_t k = line_ends_[size_t(q)]; k < line_ends_[size_t(q) + 1]; ++k) {
      ptrdiff_t line = line_terms_[k];
      for (size_t i = 0; i < block.images.size(); ++i, line += rows_ * row_)
        block.lines.push_back(line);
    }
    const ptrdiff_t n = ceil_div(block.to - block.from - phase, stride);
    const ptrdiff_t lanes = std::max(n, width_), channel = gx_.strides[2];
    const ptrdiff_t step = stride * gx_.strides[3 + last_];
    char* const gx = block.gx + q * gx_.strides[3 + over_] + phase * gx_.strides[3 + last_];
    const bool in_place = step == item_ && channel % item_ == 0 && n == lanes;
    const ptrdiff_t to_channel = in_place ? channel : line_ * item_;
    char* const to = in_place ? gx : block.line;
    Tile tile = one_run(block.columns[size_t(phase)]);
    tile.outer = block.lines.data();
    tile.outers = ptrdiff_t(block.lines.size());
    tile.x_row = row_;
    tile.y_row = to_channel / item_;
    for (const auto& [kernel, i] : sums_rows_)
      kernel(tile, block.products + i * row_ * item_, ones_.data(), to + i * to_channel, lanes);
    for (ptrdiff_t i = 0; i < inputs_ && !in_place; ++i)
      copy(to + i * to_channel, item_, gx + i * channel, step, n);
  }

  static Tile one_run(const Sizes& inner) {
    static constexpr ptrdiff_t origin[1] = {0};
    Tile tile = {};
    tile.outer = origin;
    tile.outers = tile.kernel_rows = tile.flat_rows = tile.runs = tile.places = 1;
    tile.inner = inner.data();
    tile.inners = ptrdiff_t(inner.size());
    return tile;
  }

  template <class Real>
  bool are_finite() const {
    Real peak = 0;
    isa_.peak_of[number_](weights_, s_.y_shape[1] * product(s_.taps) * inputs_ * outputs_, &peak);
    return peak <= std::numeric_limits<Real>::max();
  }

  struct Rows {
    Kernel kernel;
    ptrdiff_t from;
  };

  // As many rows at a time as there are kernels for, dealt evenly.
  std::vector<Rows> dealt(Op op, ptrdiff_t rows) const {
    const ptrdiff_t tiles = ceil_div(rows, ptrdiff_t(isa_.rows[number_][int(op)]));
    std::vector<Rows> all;
    for (ptrdiff_t i = 0; i < tiles; ++i) {
      const ptrdiff_t from = rows * i / tiles, to = rows * (i + 1) / tiles;
      all.push_back({isa_.kernel[number_][int(op)][to - from - 1], from});
    }
    return all;
  }

  const WindowSums s_;
  const Sizes gx_steps_, gy_steps_;
  const Array gx_, gy_;
  const char* const weights_;
  const Isa& isa_;
  const ptrdiff_t item_;
  const int number_;
  const ptrdiff_t width_;  // of a vector
  const size_t last_, over_;
  const ptrdiff_t inputs_, outputs_;
  ptrdiff_t rows_;                // taps of the last two axes, and channels
  ptrdiff_t images_;              // of gx, along the axes before
  ptrdiff_t columns_, parts_;     // of gx along the last axis
  ptrdiff_t slice_, slices_;      // and along the one over it
  ptrdiff_t kept_;                // lines of positions
  ptrdiff_t row_, slot_;          // elements, of products of a line with one tap and with all
  ptrdiff_t channel_, gathered_;  // of a line of gy, of one channel and of all
  ptrdiff_t line_;                // of a line of gx
  ptrdiff_t scratch_;             // bytes of a worker
  std::unique_ptr<char[]> scratch_memory_;
  char* first_scratch_;
  bool in_place_;  // lines of gy
  bool finite_;    // weights, whose products with zeros are zeros
  std::vector<size_t> line_ends_ = {0};
  Sizes line_terms_;  // of each line of gx: offsets of the products that go into it
  Sizes channels_, gathered_channels_;
  std::vector<Rows> products_rows_, sums_rows_;
  std::vector<char> ones_;
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
