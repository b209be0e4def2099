// Copies between the user's arrays and scratch: conversion, and the image beyond its edge.

#include <algorithm>
#include <cstring>

#include "traversal.h"

namespace xconv {
namespace {

constexpr ptrdiff_t nowhere = PTRDIFF_MIN;  // an offset: outside a constant's image

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

}  // namespace

// n inputs of the lane axis, all of them the constant.
void Traversal::fill_runs(ptrdiff_t n, char* to) const {
  const ptrdiff_t item = size_of(d_.number), stride = loops_[lane_].stride;
  for (ptrdiff_t i = 0; i < n; ++i) {
    char* at = to + i % stride * packed_.phase * d_.real_bytes + i / stride * item;
    std::memcpy(at, d_.spec.fill, size_t(item));
  }
}

// Zeros from the n inputs of the lane axis to the end of the room for them.
void Traversal::pad_runs(ptrdiff_t n, char* to) const {
  const ptrdiff_t item = size_of(d_.number), stride = loops_[lane_].stride;
  const ptrdiff_t room = packed_.phase / d_.reals;
  for (ptrdiff_t residue = 0; residue < std::min(stride, n); ++residue) {
    const ptrdiff_t count = (n - residue + stride - 1) / stride;
    std::memset(to + residue * packed_.phase * d_.real_bytes + count * item, 0,
                size_t((room - count) * item));
  }
}

// The n inputs of the lane axis from `first` on (which may lie outside): residue classes modulo
// the stride go to different places, so that a tap's inputs are contiguous.
void Traversal::pack_run(const ptrdiff_t* map, ptrdiff_t first, ptrdiff_t n, const char* from,
                         char* to) const {
  const Loop& lane = loops_[lane_];
  const ptrdiff_t item = size_of(d_.number), stride = lane.stride;
  const Load load = d_.isa.load[int(d_.spec.x_type)][int(d_.number)];
  for (ptrdiff_t residue = 0; residue < std::min(stride, n); ++residue) {
    char* at = to + residue * packed_.phase * d_.real_bytes;
    const ptrdiff_t count = (n - residue + stride - 1) / stride;
    // Of these, [low, high) lie in the image.
    const ptrdiff_t begin = first + residue;
    ptrdiff_t low = begin >= 0 ? 0 : (-begin + stride - 1) / stride;
    ptrdiff_t high = begin >= lane.inputs ? 0 : (lane.inputs - begin + stride - 1) / stride;
    low = std::min(low, count);
    high = std::clamp(high, low, count);
    auto one = [&](ptrdiff_t i) {
      const ptrdiff_t offset = map[residue + i * stride];
      if (offset == nowhere) {
        std::memcpy(at + i * item, d_.spec.fill, size_t(item));
      } else {
        load(from + offset, 0, at + i * item, 1);
      }
    };
    for (ptrdiff_t i = 0; i < low; ++i) one(i);
    if (low < high) {
      load(from + (begin + low * stride) * lane.x, lane.x * stride, at + low * item, high - low);
    }
    for (ptrdiff_t i = high; i < count; ++i) one(i);
  }
}

void Traversal::pack(const Block& block, char* to, ptrdiff_t* maps) const {
  const ptrdiff_t item = size_of(d_.number), real = d_.real_bytes;
  const ptrdiff_t* map[max_axes];
  ptrdiff_t window[max_axes];
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
  const Loop& lane = loops_[lane_];
  const Load load = d_.isa.load[int(d_.spec.x_type)][int(d_.number)];
  const ptrdiff_t lanes = lane.window(block.length[lane_]);
  const ptrdiff_t lane_first = block.from[lane_] * lane.stride - lane.pad;
  const bool simple = lane.stride == 1 && lane_first >= 0 && lane_first + lanes <= lane.inputs;
  // A run shorter than a vector is computed on what follows it: that must be numbers.
  const bool padded = block.length[lane_] < d_.lanes_per_vector && packed_.phase > 0;

  // The axes but the lanes; the last of them, the fold where there is one, is the inner loop.
  int walked[max_axes], walks = 0;
  ptrdiff_t position[max_axes] = {};
  for (int a = 0; a < n_; ++a) {
    if (a != lane_ && a != fold_) walked[walks++] = a;
  }
  const int inner = fold_ >= 0 ? fold_ : walks > 0 ? walked[--walks] : -1;
  static constexpr ptrdiff_t origin[1] = {0};
  const ptrdiff_t* inner_map = inner < 0 ? origin : map[inner];
  const ptrdiff_t inner_count = inner < 0 ? 1 : window[inner];
  const ptrdiff_t inner_step = inner < 0 ? 0 : packed_.step[inner] * real;
  // Runs that follow each other here and there are one.
  const bool joined = simple && inner_step == lanes * item && lane.x * lanes == loops_[inner].x;

  for (ptrdiff_t i = 0; i < d_.inputs; ++i) {
    for (;;) {
      ptrdiff_t source = i * x_channel_;
      char* at = to + i * packed_.channel * real;
      bool inside = true;
      for (int k = 0; k < walks; ++k) {
        const ptrdiff_t offset = map[walked[k]][position[k]];
        inside &= offset != nowhere;
        if (inside) source += offset;
        at += position[k] * packed_.step[walked[k]] * real;
      }
      for (ptrdiff_t u = 0; u < inner_count; ++u, at += inner_step) {
        if (!inside || inner_map[u] == nowhere) {
          fill_runs(lanes, at);
        } else if (simple) {
          const char* from = x_.data + source + inner_map[u] + lane_first * lane.x;
          ptrdiff_t runs = 1;
          if (joined) {
            while (u + runs < inner_count &&
                   inner_map[u + runs] == inner_map[u] + runs * loops_[inner].x) {
              ++runs;
            }
          }
          load(from, lane.x, at, runs * lanes);
          u += runs - 1;
          at += (runs - 1) * inner_step;
        } else {
          pack_run(map[lane_], lane_first, lanes, x_.data + source + inner_map[u], at);
        }
        if (padded) pad_runs(lanes, at);
      }
      int k = walks - 1;
      while (k >= 0 && ++position[k] == window[walked[k]]) position[k--] = 0;
      if (k < 0) break;
    }
  }
  if (fold_ >= 0) {
    std::memset(to + (packed_elements_ - d_.lanes_per_vector) * item, 0,
                size_t(d_.lanes_per_vector * item));
  }
}

void Traversal::scatter(const Block& block, const char* from, int kernels) const {
  const ptrdiff_t real = d_.real_bytes;
  const Store store = d_.isa.store[int(d_.number)];
  const ptrdiff_t lanes = block.length[lane_], stride = loops_[lane_].y;
  int walked[max_axes], walks = 0;
  ptrdiff_t position[max_axes];
  for (int a = 0; a < n_; ++a) {
    if (a == lane_ || block.length[a] == 1) continue;
    walked[walks] = a;
    position[walks++] = 0;
  }
  for (int o = 0; o < kernels; ++o) {
    for (;;) {
      ptrdiff_t source = o * tiled_.channel, target = o * y_kernel_;
      for (int k = 0; k < walks; ++k) {
        source += position[k] * tiled_.step[walked[k]];
        target += position[k] * loops_[walked[k]].y;
      }
      store(from + source * real, block.y + target, stride, lanes);
      int k = walks - 1;
      while (k >= 0 && ++position[k] == block.length[walked[k]]) position[k--] = 0;
      if (k < 0) break;
    }
  }
}

}  // namespace xconv
