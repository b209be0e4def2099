#include "lane_sums.h"

#include <algorithm>
#include <cstring>

#include "traversal.h"

namespace xconv {
namespace {

using Sizes = PositionSums::Sizes;

struct Place {
  const char *x, *gy;
  char* total;
};

class LaneSums {
 public:
  LaneSums(const PositionSums& sums, const Isa& isa, Array x, Array gy, const Sizes& from,
           const Sizes& size, const Sizes& steps)
      : s_(sums),
        x_(x),
        gy_(gy),
        from_(from),
        size_(size),
        steps_(steps),
        item_(size_of(sums.type)),
        kernels_(isa.kernel[int(number_of(sums.type))][int(Op::channels)]),
        rows_(isa.rows[int(number_of(sums.type))][int(Op::channels)]),
        width_(isa.vector_bytes / item_),
        most_lanes_(width_ * isa.vectors[int(number_of(sums.type))][int(Op::channels)]),
        last_(sums.taps.size() - 1) {
    first_byte_ = last_byte_ = x.data;
    for (size_t a = 0; a < s_.x_shape.size(); ++a) {
      const ptrdiff_t span = (s_.x_shape[a] - 1) * x.strides[a];
      (span < 0 ? first_byte_ : last_byte_) += span;
    }
    last_byte_ += item_ - 1;
  }

  bool add(char* total) {
    static constexpr unsigned char zeros[16] = {};
    const bool exact = s_.x_type == s_.type && rows_ > 0 && whole(x_) && whole(gy_);
    if (!exact || s_.boundary != Boundary::constant || std::memcmp(s_.fill, zeros, 16) != 0)
      return false;
    if (contiguous(1) && steps_[0] == item_ && size_[1] % width_ == 0) {
      offsets_.resize(size_t(size_[2 + last_]));
      for (size_t p = 0; p < offsets_.size(); ++p) {
        offsets_[p] = ptrdiff_t(p) * s_.stride[last_] * x_.strides[3 + last_] / item_;
      }
      each(1, total, [&](Place at) { walk(0, last_, at, [&](Place line) { add_groups(line); }); });
      return true;
    }
    // Kernels that fill a vector are better lanes, even if gy has to be turned.
    const bool narrow =
        s_.taps[last_] < width_ && size_[2 + last_] >= width_ && s_.y_shape[2] < width_;
    if (last_ > 0 && contiguous(3 + last_) && s_.stride[last_] == 1 && narrow) {
      each(size_[1], total, [&](Place at) {
        walk(0, last_ - 1, at, [&](Place image) {
          item_ == 4 ? add_columns<float>(image) : add_columns<double>(image);
        });
      });
      return true;
    }
    return false;
  }

 private:
  bool contiguous(size_t axis) const {
    return x_.strides[axis] == item_ && gy_.strides[axis] == item_;
  }

  bool whole(const Array& array) const {
    for (size_t a = 0; a < s_.x_shape.size(); ++a) {
      if (array.strides[a] % item_ != 0) return false;
    }
    return true;
  }

  // Images of the block, for each kernel and channel; of so many groups of it.
  template <class Visit>
  void each(ptrdiff_t groups, char* total, const Visit& visit) const {
    for (ptrdiff_t g = from_[1]; g < from_[1] + groups; ++g) {
      for (ptrdiff_t o = 0; o < s_.y_shape[2]; ++o) {
        for (ptrdiff_t i = 0; i < s_.x_shape[2]; ++i) {
          char* to = total + g * steps_[0] + o * steps_[1] + i * steps_[2];
          for (ptrdiff_t b = from_[0]; b < from_[0] + size_[0]; ++b) {
            visit(Place{x_.data + b * x_.strides[0] + g * x_.strides[1] + i * x_.strides[2],
                        gy_.data + b * gy_.strides[0] + g * gy_.strides[1] + o * gy_.strides[2],
                        to});
          }
        }
      }
    }
  }

  // Positions and taps of the axes [axis, axes) that meet inside the image.
  template <class Visit>
  void walk(size_t axis, size_t axes, Place at, const Visit& visit) const {
    if (axis == axes) return visit(at);
    for (ptrdiff_t p = from_[2 + axis]; p < from_[2 + axis] + size_[2 + axis]; ++p) {
      for (ptrdiff_t t = 0; t < s_.taps[axis]; ++t) {
        const ptrdiff_t i = index(axis, p, t);
        if (i < 0 || i >= s_.x_shape[3 + axis]) continue;
        const Place next = {at.x + i * x_.strides[3 + axis], at.gy + p * gy_.strides[3 + axis],
                            at.total + t * steps_[3 + axis]};
        walk(axis + 1, axes, next, visit);
      }
    }
  }

  ptrdiff_t index(size_t axis, ptrdiff_t position, ptrdiff_t tap) const {
    return position * s_.stride[axis] + tap * s_.dilation[axis] - s_.pad[axis];
  }

  // Positions of the block at which a tap lies inside the image.
  struct Range {
    ptrdiff_t from, to;
  };
  Range inside(size_t axis, ptrdiff_t tap) const {
    const ptrdiff_t stride = s_.stride[axis], at = index(axis, 0, tap);
    const ptrdiff_t from = from_[2 + axis], to = from + size_[2 + axis];
    const ptrdiff_t first = std::clamp(ceil_div(-at, stride), from, to);
    return {first, std::clamp(floor_div(s_.x_shape[3 + axis] - 1 - at, stride) + 1, first, to)};
  }

  // sums[r][q] (+)= sum over j of gy[j*gy_step + q] * x[offsets[j] + r*x_row + q].
  void call(Place at, ptrdiff_t taps, ptrdiff_t to_row, const ptrdiff_t* offsets, ptrdiff_t count,
            ptrdiff_t gy_step, ptrdiff_t lanes, bool add) const {
    static constexpr ptrdiff_t origin[1] = {0};
    Tile tile = {};
    tile.outer = origin;
    tile.outers = tile.runs = tile.places = tile.flat_rows = tile.w_lane = 1;
    tile.inner = offsets;
    tile.inners = count;
    tile.x_row = s_.dilation[last_] * x_.strides[3 + last_] / item_;
    tile.y_row = to_row / item_;
    tile.w_row = gy_step / item_;
    tile.add = add;
    kernels_[taps - 1](tile, at.x, at.gy, at.total, lanes);
  }

  // A line of positions along the last axis, with the groups as lanes.
  void add_groups(Place line) const {
    const ptrdiff_t x_step = x_.strides[3 + last_], gy_step = gy_.strides[3 + last_];
    auto add = [&](ptrdiff_t from, ptrdiff_t to, ptrdiff_t first, ptrdiff_t end) {
      for (ptrdiff_t t = first; t < end; t += rows_) {
        const Place at = {line.x + index(last_, from, t) * x_step, line.gy + from * gy_step,
                          line.total + t * steps_[3 + last_]};
        call(at, std::min(ptrdiff_t(rows_), end - t), steps_[3 + last_], offsets_.data(), to - from,
             gy_step, size_[1], true);
      }
    };
    // Where all taps lie inside; other positions one by one.
    const ptrdiff_t taps = s_.taps[last_], begin = from_[2 + last_], end = begin + size_[2 + last_];
    const Range all = {inside(last_, 0).from, inside(last_, taps - 1).to};
    auto alone = [&](ptrdiff_t from, ptrdiff_t to) {
      for (ptrdiff_t p = from; p < to; ++p) {
        const ptrdiff_t d = s_.dilation[last_], at = index(last_, p, 0);
        const ptrdiff_t low = std::clamp(ceil_div(-at, d), ptrdiff_t(0), taps);
        add(p, p + 1, low, std::clamp(floor_div(s_.x_shape[3 + last_] - 1 - at, d) + 1, low, taps));
      }
    };
    if (all.from >= all.to) return alone(begin, end);
    alone(begin, all.from);
    add(all.from, all.to, 0, taps);
    alone(all.to, end);
  }

  // Lines of positions under each other, with their columns as lanes.  Lanes that read beyond the
  // image's edge read another line, and are left out of the sums over lanes.
  template <class Real>
  void add_columns(Place image) {
    const size_t over = last_ - 1;
    const ptrdiff_t x_line = x_.strides[3 + over], gy_line = gy_.strides[3 + over];
    const ptrdiff_t begin = from_[2 + last_], columns = size_[2 + last_];
    const ptrdiff_t parts = ceil_div(columns, most_lanes_);
    Real sums[max_rows][64];
    for (ptrdiff_t u = 0; u < s_.taps[over]; ++u) {
      const Range lines = inside(over, u);
      const ptrdiff_t count = lines.to - lines.from;
      if (count == 0) continue;
      offsets_.resize(size_t(count));
      for (ptrdiff_t j = 0; j < count; ++j)
        offsets_[size_t(j)] = j * s_.stride[over] * x_line / item_;
      const char* x = image.x + index(over, lines.from, u) * x_line;
      const char* gy = image.gy + lines.from * gy_line;
      char* total = image.total + u * steps_[3 + over];
      for (ptrdiff_t t = 0; t < s_.taps[last_]; t += rows_) {
        const ptrdiff_t taps = std::min(ptrdiff_t(rows_), s_.taps[last_] - t);
        for (ptrdiff_t part = 0; part < parts; ++part) {
          const ptrdiff_t from = begin + columns * part / parts;
          const ptrdiff_t to = begin + columns * (part + 1) / parts;
          Range lanes = {from, to};
          if (!reads_array(x + index(last_, from, t) * item_,
                           (taps - 1) * s_.dilation[last_] + to - from, offsets_.back())) {
            lanes = {std::clamp(inside(last_, t).from, from, to), to};
            lanes.to = std::clamp(inside(last_, t + taps - 1).to, lanes.from, to);
          }
          if (lanes.to - lanes.from < width_) lanes.to = lanes.from;
          if (lanes.to > lanes.from) {
            const Place at = {x + index(last_, lanes.from, t) * item_, gy + lanes.from * item_,
                              reinterpret_cast<char*>(sums)};
            call(at, taps, sizeof sums[0], offsets_.data(), count, gy_line, lanes.to - lanes.from,
                 false);
          }
          for (ptrdiff_t r = 0; r < taps; ++r) {
            Range valid = inside(last_, t + r);
            valid = {std::clamp(valid.from, from, to), std::clamp(valid.to, from, to)};
            Real sum = 0;
            const ptrdiff_t low = std::clamp(lanes.from, valid.from, valid.to);
            const ptrdiff_t high = std::clamp(lanes.to, low, valid.to);
            auto alone = [&](ptrdiff_t q, ptrdiff_t end) {
              for (; q < end; ++q)
                sum += column<Real>(x + index(last_, q, t + r) * item_, gy + q * item_, gy_line);
            };
            alone(valid.from, low);
            sum += across(sums[r] + (low - lanes.from), high - low);
            alone(high, valid.to);
            Real* to_sum = reinterpret_cast<Real*>(total + (t + r) * steps_[3 + last_]);
            *to_sum += sum;
          }
        }
      }
    }
  }

  // Whether `elements` from x on, and those `farthest` elements from there, are the array's or lie
  // between such.
  bool reads_array(const char* x, ptrdiff_t elements, ptrdiff_t farthest) const {
    const char* low = x + std::min(farthest, ptrdiff_t(0)) * item_;
    const char* high = x + (std::max(farthest, ptrdiff_t(0)) + elements) * item_ - 1;
    return low >= first_byte_ && high <= last_byte_;
  }

  template <class Real>
  Real column(const char* x, const char* gy, ptrdiff_t gy_line) const {
    Real sum = 0;
    for (const ptrdiff_t offset : offsets_) {
      Real a, b;
      std::memcpy(&a, x + offset * item_, sizeof a);
      std::memcpy(&b, gy, sizeof b);
      sum += a * b;
      gy += gy_line;
    }
    return sum;
  }

  // In eight sums, which vectors can add to.
  template <class Real>
  static Real across(const Real* lanes, ptrdiff_t n) {
    Real sums[8] = {};
    for (; n >= 8; n -= 8, lanes += 8) {
      for (int i = 0; i < 8; ++i) sums[i] += lanes[i];
    }
    for (ptrdiff_t i = 0; i < n; ++i) sums[i] += lanes[i];
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) +
           ((sums[1] + sums[5]) + (sums[3] + sums[7]));
  }

  const PositionSums& s_;
  const Array x_, gy_;
  const Sizes &from_, &size_, &steps_;
  const ptrdiff_t item_;
  const Kernel* kernels_;
  const int rows_;
  const ptrdiff_t width_, most_lanes_;
  const size_t last_;
  const char *first_byte_, *last_byte_;  // of x
  Sizes offsets_;                        // of the positions that a call sums, in x
};

}  // namespace

bool add_lane_sums(const PositionSums& sums, const Isa& isa, Array x, Array gy, const Sizes& from,
                   const Sizes& size, char* total, const Sizes& steps) {
  return LaneSums(sums, isa, x, gy, from, size, steps).add(total);
}

}  // namespace xconv
