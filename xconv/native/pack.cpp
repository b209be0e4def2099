// Copies between the user's arrays and scratch: conversion, and the image beyond its edge.

#include <algorithm>
#include <cstring>

#include "transpose.h"
#include "traversal.h"

namespace xconv {
namespace {

constexpr ptrdiff_t nowhere = PTRDIFF_MIN;  // an offset: outside a constant's image
// Bytes beyond a line that is copied: asked for early, since the processor does not foresee them
// while a block is computed.
constexpr ptrdiff_t ahead = 8192;

ptrdiff_t modulo(ptrdiff_t a, ptrdiff_t n) {
  const ptrdiff_t r = a % n;
  return r < 0 ? r + n : r;
}

// The pixel that stands at index i of an image of n pixels, or -1 for the constant.
ptrdiff_t continued(ptrdiff_t i, ptrdiff_t n, Boundary boundary) {
  if (i >= 0 && i < n) return i;
  switch (boundary) {
    case Boundary::constant:
      return -1;
    case Boundary::nearest:
      return i < 0 ? 0 : n - 1;
    case Boundary::wrap:
      return modulo(i, n);
    case Boundary::reflect: {
      const ptrdiff_t m = modulo(i, 2 * n);
      return m < n ? m : 2 * n - 1 - m;
    }
    case Boundary::mirror: {
      if (n == 1) return 0;
      const ptrdiff_t m = modulo(i, 2 * n - 2);
      return m < n ? m : 2 * n - 2 - m;
    }
  }
  return -1;
}

// Short rows without a call: of 16 bytes and more, with a last step that overlaps the one before.
inline void copy_row(const char* from, char* to, ptrdiff_t bytes) {
  constexpr ptrdiff_t step = 16, most = 8 * step;
  if (bytes < step || bytes > most) {
    std::memcpy(to, from, size_t(bytes));
    return;
  }
  for (ptrdiff_t i = 0; i < bytes - step; i += step) std::memcpy(to + i, from + i, step);
  std::memcpy(to + bytes - step, from + bytes - step, step);
}

// A line of elements that are copied as they are, of which those from `low` to `high` lie in the
// image, one after the other.
struct Line {
  const ptrdiff_t* map;
  ptrdiff_t count, low, high;
  const unsigned char* fill;
};

template <int item>
void copy_line(const Line& line, const char* from, char* to) {
  auto outside = [&](ptrdiff_t i, ptrdiff_t end) {
    for (; i < end; ++i) {
      const ptrdiff_t offset = line.map[i];
      const void* source = offset == nowhere ? static_cast<const void*>(line.fill) : from + offset;
      std::memcpy(to + i * item, source, item);
    }
  };
  outside(0, line.low);
  outside(line.high, line.count);
  if (line.low == line.high) return;
  const char* source = from + line.map[line.low];
  const ptrdiff_t bytes = (line.high - line.low) * item;
  for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch(source + ahead + i, 0, 2);
  copy_row(source, to + line.low * item, bytes);
}

}  // namespace

// n inputs of the lane axis, all of them the constant.
void Traversal::fill_runs(ptrdiff_t n, char* to) const {
  static constexpr unsigned char zeros[16] = {};
  const ptrdiff_t item = size_of(d_.number), stride = stride_along();
  const bool zero = std::memcmp(d_.spec.fill, zeros, size_t(item)) == 0;
  for (ptrdiff_t residue = 0; residue < std::min(stride, n); ++residue) {
    char* at = to + residue * packed_.phase * d_.real_bytes;
    const ptrdiff_t count = ceil_div(n - residue, stride);
    if (zero) {
      std::memset(at, 0, size_t(count * item));
    } else {
      for (ptrdiff_t i = 0; i < count; ++i) std::memcpy(at + i * item, d_.spec.fill, size_t(item));
    }
  }
}

// Zeros from the n inputs of the lane axis to the end of the room for them.
void Traversal::pad_runs(ptrdiff_t n, char* to) const {
  const ptrdiff_t item = size_of(d_.number), stride = stride_along();
  const ptrdiff_t room = packed_.phase / d_.reals;
  for (ptrdiff_t residue = 0; residue < std::min(stride, n); ++residue) {
    const ptrdiff_t count = (n - residue + stride - 1) / stride;
    std::memset(to + residue * packed_.phase * d_.real_bytes + count * item, 0,
                size_t((room - count) * item));
  }
}

// n elements `stride` bytes apart to a run, and those next to them to the other lines.
void Traversal::load_runs(const char* from, ptrdiff_t stride, char* to, ptrdiff_t n,
                          const Lines& lines) const {
  if (lines.count == 1) {
    d_.isa.load[int(d_.spec.x_type)][int(d_.number)](from, stride, to, n);
  } else {
    transpose(size_of(d_.number), from, stride, to, lines.step, n, lines.count);
  }
}

// The n inputs of the lane axis from `first` on (which may lie outside): residue classes modulo
// the stride go to different places, so that a tap's inputs are contiguous.
void Traversal::pack_run(const ptrdiff_t* map, ptrdiff_t first, ptrdiff_t n, const char* from,
                         char* to, const Lines& lines) const {
  const Loop& lane = loops_[along_];
  const ptrdiff_t item = size_of(d_.number), stride = stride_along();
  for (ptrdiff_t residue = 0; residue < std::min(stride, n); ++residue) {
    char* at = to + residue * packed_.phase * d_.real_bytes;
    auto up = [&](ptrdiff_t k) { return k <= 0 ? 0 : stride == 1 ? k : (k + stride - 1) / stride; };
    // Of these, [low, high) lie in the image.
    const ptrdiff_t count = up(n - residue), begin = first + residue;
    const ptrdiff_t low = std::min(up(-begin), count);
    const ptrdiff_t high = std::clamp(up(lane.inputs - begin), low, count);
    auto outside = [&](ptrdiff_t i, ptrdiff_t end) {
      for (; i < end; ++i) {
        const ptrdiff_t offset = map[residue + i * stride];
        if (offset == nowhere) {
          for (ptrdiff_t k = 0; k < lines.count; ++k)
            std::memcpy(at + k * lines.step + i * item, d_.spec.fill, size_t(item));
        } else {
          load_runs(from + offset, 0, at + i * item, 1, lines);
        }
      }
    };
    outside(0, low);
    if (low < high) {
      load_runs(from + (begin + low * stride) * lane.x, lane.x * stride, at + low * item,
                high - low, lines);
    }
    outside(high, count);
  }
}

void Traversal::pack(const Block& block, char* to, ptrdiff_t* maps) const {
  const ptrdiff_t item = size_of(d_.number), real = d_.real_bytes;
  const ptrdiff_t* map[max_loops];
  ptrdiff_t window[max_loops];
  for (int a = 0; a < n_; ++a) {
    const Loop& loop = loops_[a];
    const ptrdiff_t first = block.from[a] * loop.stride - loop.pad;
    window[a] = loop.window(block.length[a]);
    for (ptrdiff_t u = 0; u < window[a]; ++u) {
      const ptrdiff_t i = continued(first + u, loop.inputs, d_.spec.boundary);
      maps[u] = i < 0 ? nowhere : i * loop.x;
    }
    map[a] = maps;
    maps += window[a];
  }
  const Loop& lane = loops_[along_];
  const ptrdiff_t lanes = lane.window(block.length[along_]);
  const ptrdiff_t lane_first = block.from[along_] * lane.stride - lane.pad;
  const bool simple = stride_along() == 1 && lane_first >= 0 && lane_first + lanes <= lane.inputs;
  // Borders of runs that are copied as they are.
  Line line = {map[along_], lanes, 0, 0, d_.spec.fill};
  line.low = std::clamp(-lane_first, ptrdiff_t(0), lanes);
  line.high = std::clamp(lane.inputs - lane_first, line.low, lanes);
  const bool exact = exact_x_ && stride_along() == 1 && lane.x == item;
  const auto copy = item == 4 ? copy_line<4> : item == 8 ? copy_line<8> : nullptr;
  // A run shorter than a vector is computed on what follows it: that must be numbers.
  const bool padded = block.length[lane_] < d_.lanes_per_vector && packed_.phase > 0;

  // Where the runs' inputs are not next to each other and those along another axis are: all of them
  // at once.
  Lines lines = {1, 0};
  int crossed = -1;
  for (int a = 0; a < n_ && exact_x_ && copy && lane.x != item; ++a) {
    const ptrdiff_t last = window[a] - 1, first = map[a][0];
    if (a == along_ || a == lane_ || a == fold_ || last == 0 || loops_[a].x != item) continue;
    if (first == nowhere || map[a][last] != first + last * item) continue;
    crossed = a;
    lines = {last + 1, packed_.step[a] * real};
  }

  // The axes but the lanes; the last of them, the fold where there is one, is the inner loop.
  int walked[max_loops], walks = 0;
  ptrdiff_t position[max_loops] = {};
  for (int a = 0; a < n_; ++a) {
    if (a != along_ && a != lane_ && a != fold_ && a != crossed) walked[walks++] = a;
  }
  const int inner = fold_ >= 0 ? fold_ : walks > 0 ? walked[--walks] : -1;
  static constexpr ptrdiff_t origin[1] = {0};
  const ptrdiff_t* inner_map = inner < 0 ? origin : map[inner];
  const ptrdiff_t inner_count = inner < 0 ? 1 : window[inner];
  const ptrdiff_t inner_step = inner < 0 ? 0 : packed_.step[inner] * real;
  // Runs that follow each other here and there are one.
  const bool joined = simple && inner_step == lanes * item && lane.x * lanes == loops_[inner].x;

  for (;;) {
    ptrdiff_t source = 0;
    char* at = to;
    bool inside = true;
    for (int k = 0; k < walks; ++k) {
      const ptrdiff_t offset = map[walked[k]][position[k]];
      inside &= offset != nowhere;
      if (inside) source += offset;
      at += position[k] * packed_.step[walked[k]] * real;
    }
    if (crossed >= 0 && inside) source += map[crossed][0];
    for (ptrdiff_t u = 0; u < inner_count; ++u, at += inner_step) {
      if (!inside || inner_map[u] == nowhere) {
        for (ptrdiff_t k = 0; k < lines.count; ++k) fill_runs(lanes, at + k * lines.step);
      } else if (simple) {
        const char* from = x_.data + source + inner_map[u] + lane_first * lane.x;
        ptrdiff_t runs = 1;
        if (joined) {
          while (u + runs < inner_count &&
                 inner_map[u + runs] == inner_map[u] + runs * loops_[inner].x) {
            ++runs;
          }
        }
        load_runs(from, lane.x, at, runs * lanes, lines);
        u += runs - 1;
        at += (runs - 1) * inner_step;
      } else if (exact && copy) {
        copy(line, x_.data + source + inner_map[u], at);
      } else {
        pack_run(map[along_], lane_first, lanes, x_.data + source + inner_map[u], at, lines);
      }
      for (ptrdiff_t k = 0; padded && k < lines.count; ++k) pad_runs(lanes, at + k * lines.step);
    }
    int k = walks - 1;
    while (k >= 0 && ++position[k] == window[walked[k]]) position[k--] = 0;
    if (k < 0) break;
  }
  if (fold_ >= 0) {
    std::memset(to + (packed_elements_ - d_.lanes_per_vector) * item, 0,
                size_t(d_.lanes_per_vector * item));
  }
}

namespace {

template <class Real>
void copy_run(const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step, ptrdiff_t n) {
  for (ptrdiff_t i = 0; i < n; ++i)
    std::memcpy(to + i * to_step, from + i * from_step, sizeof(Real));
}

}  // namespace

// Along the axis on which the results are nearest to each other in the user's memory.
void Traversal::scatter_layer(const Block& block, const char* from) const {
  const ptrdiff_t real = d_.real_bytes;
  const auto copy = real == 4 ? copy_run<uint32_t> : copy_run<uint64_t>;
  int walked[max_loops] = {}, walks = 0;
  ptrdiff_t position[max_loops];
  for (int a = 0; a < n_; ++a) {
    if (block.length[a] == 1) continue;
    walked[walks] = a;
    position[walks++] = 0;
  }
  auto nearer = [&](int a, int b) { return std::abs(loops_[a].y) < std::abs(loops_[b].y); };
  std::swap(*std::min_element(walked, walked + walks, nearer), walked[walks - 1]);
  const int run = walked[--walks];
  for (;;) {
    ptrdiff_t source = 0, target = 0;
    for (int k = 0; k < walks; ++k) {
      source += position[k] * tiled_.step[walked[k]];
      target += position[k] * loops_[walked[k]].y;
    }
    copy(from + source * real, tiled_.step[run] * real, block.y + target, loops_[run].y,
         block.length[run]);
    int k = walks - 1;
    while (k >= 0 && ++position[k] == block.length[walked[k]]) position[k--] = 0;
    if (k < 0) return;
  }
}

void Traversal::scatter(const Block& block, const char* from, int kernels) const {
  if (op_ == Op::layer) return scatter_layer(block, from);
  const ptrdiff_t real = d_.real_bytes, item = size_of(d_.number);
  const Store store = d_.isa.store[int(d_.number)];
  const ptrdiff_t lanes = block.length[lane_], stride = loops_[lane_].y;
  const bool as_is = stride == item && d_.number != Number::half;
  int walked[max_loops], walks = 0;
  ptrdiff_t position[max_loops];
  for (int a = 0; a < n_; ++a) {
    if (a == lane_ || block.length[a] == 1) continue;
    walked[walks] = a;
    position[walks++] = 0;
  }
  const int inner = walks > 0 ? walked[--walks] : -1;
  const ptrdiff_t rows = inner < 0 ? 1 : block.length[inner];
  const ptrdiff_t from_row = inner < 0 ? 0 : tiled_.step[inner] * real;
  const ptrdiff_t to_row = inner < 0 ? 0 : loops_[inner].y;
  for (int o = 0; o < kernels; ++o) {
    for (;;) {
      ptrdiff_t source = o * tiled_.kernel, target = o * y_kernel_;
      for (int k = 0; k < walks; ++k) {
        source += position[k] * tiled_.step[walked[k]];
        target += position[k] * loops_[walked[k]].y;
      }
      const char* row = from + source * real;
      char* to = block.y + target;
      for (ptrdiff_t r = 0; r < rows; ++r, row += from_row, to += to_row) {
        if (as_is) {
          copy_row(row, to, lanes * item);
        } else {
          store(row, to, stride, lanes);
        }
      }
      int k = walks - 1;
      while (k >= 0 && ++position[k] == block.length[walked[k]]) position[k--] = 0;
      if (k < 0) break;
    }
  }
}

}  // namespace xconv
