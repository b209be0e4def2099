// The axes of a call, and which of them the lanes of vectors and the rows of tiles run along.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <utility>

#include "traversal.h"

namespace xconv {
namespace {

// Costs are counted in vector multiply-adds of one core, about 0.2 ns.  Measured on a Zen 3.
constexpr double contiguous_move = 0.25;  // of an element, to or from scratch
constexpr double strided_move = 2;
constexpr double page = 4096;  // bytes
// Beyond so many under a tile, finding them costs more than packing, unless taps are many.  The
// processors with 512-bit vectors know many more, measured on a Zen 5.
constexpr double near_pages = 64, near_pages_512 = 2048, pages_per_tap = 0.4;
constexpr double least_inside = 0.8;     // of the outputs, before the others are packed with them
constexpr double most_waste = 0.15;      // of a run's vectors, before another axis is folded in
constexpr ptrdiff_t short_run = 4;       // tiles
constexpr ptrdiff_t most_inner = 1024;   // taps of a tile's inner loop
constexpr ptrdiff_t most_turned = 8192;  // the same where their weights come a vector at a time
constexpr double nearly = 0.8;           // as many rows of a tile in use
constexpr int least_taps = 4, least_vectors = 3;  // of a line; measured on a Zen 5

}  // namespace

void Traversal::set_loops() {
  const int batch = d_.batch;
  auto step = [](const Axis& axis, const Array& array) {
    return axis.of < 0 ? 0 : array.strides[axis.of] * axis.step;
  };
  const auto& x_axes = d_.spec.x_axes;
  const auto& y_axes = d_.spec.y_axes;
  for (int b = 0; b < batch; ++b) {  // sorted by the result's strides, longest first
    if (d_.extents[b].outputs == 1) continue;
    Loop loop;
    static_cast<Extent&>(loop) = d_.extents[b];
    loop.x = step(x_axes[size_t(b)], x_);
    loop.y = step(y_axes[size_t(b)], y_);
    int at = n_++;
    for (; at > 0 && std::abs(loops_[at - 1].y) < std::abs(loop.y); --at)
      loops_[at] = loops_[at - 1];
    loops_[at] = loop;
  }
  int merged = 0;
  for (int b = 0; b < n_; ++b) {
    Loop& outer = loops_[merged - (merged > 0)];
    const Loop& inner = loops_[b];
    if (merged > 0 && outer.x == inner.x * inner.inputs && outer.y == inner.y * inner.outputs) {
      outer.outputs = outer.inputs = outer.outputs * inner.outputs;
      outer.x = inner.x;
      outer.y = inner.y;
    } else {
      loops_[merged++] = inner;
    }
  }
  n_ = merged;
  auto add = [&](const Extent& extent, ptrdiff_t x, ptrdiff_t y) {
    static_cast<Extent&>(loops_[n_]) = extent;
    loops_[n_].x = x;
    loops_[n_].y = y;
    return n_++;
  };
  const auto group = size_t(batch), channel = group + 1;
  y_kernel_ = step(y_axes[channel], y_);
  if (d_.groups > 1) {
    group_ = add(d_.extents[batch], step(x_axes[group], x_), step(y_axes[group], y_));
  }
  if (d_.inputs > 1) {
    channels_ = add({1, d_.inputs, d_.inputs, 1, 1, 0}, step(x_axes[channel], x_), 0);
  }
  for (int s = 0; s < d_.spec.spatial; ++s) {
    const size_t at = channel + 1 + size_t(s);
    add(d_.extents[batch + 1 + s], step(x_axes[at], x_), step(y_axes[at], y_));
  }
  if (turned_ == Op::layer) kernels_ = add({d_.outputs, 1, 1, 0, 1, 0}, 0, y_kernel_);

  exact_x_ = d_.number != Number::half && number_of(d_.spec.x_type) == d_.number;
  exact_y_ = d_.number != Number::half && y_kernel_ % d_.real_bytes == 0;
  for (int a = 0; a < n_; ++a) {
    Loop& loop = loops_[a];
    exact_x_ &= loop.x % d_.real_bytes == 0;
    exact_y_ &= loop.y % d_.real_bytes == 0;
    if (a == kernels_) {
      loop.inside_from = 0;
      loop.inside_to = loop.outputs;
      continue;
    }
    const ptrdiff_t past = loop.inputs + loop.pad - loop.window(1);
    loop.inside_from = std::clamp(ceil_div(loop.pad, loop.stride), ptrdiff_t(0), loop.outputs);
    loop.inside_to = std::clamp(floor_div(past, loop.stride) + 1, loop.inside_from, loop.outputs);
  }
}

// Whether lanes may run along an axis.
bool Traversal::may_be_lane(int a) const {
  if (!w_ && a != (turned_ == Op::layer ? kernels_ : group_)) return false;
  if (a == group_) return turned_ == Op::channels;
  return a != channels_ && (a != kernels_ || exact_y_);
}

bool Traversal::lane_in_place(int lane) const {
  if (lane == kernels_) return exact_x_;
  return exact_x_ && loops_[lane].x == size_of(d_.number) && loops_[lane].stride == 1;
}

bool Traversal::lane_direct(int lane) const {
  // Of a layer, vectors of kernels are whole.
  if (lane == kernels_ && d_.outputs != d_.padded_outputs) return false;
  return exact_y_ && loops_[lane].y == size_of(d_.number);
}

// The axis that continues a run of the lane axis, or -1.  Runs that fill their vectors badly are
// folded, and in place short ones, which are then long enough for loads to be foreseen.  Where the
// lane axis is convolved, what lies between one row's outputs and the next is computed for nothing.
int Traversal::fold_for(int lane, bool in_place, bool direct) const {
  const Loop& l = loops_[lane];
  const ptrdiff_t width = d_.lanes_per_vector;
  const double wasted = double(ceil_div(l.outputs, width) * width - l.outputs);
  const int vectors = d_.isa.vectors[d_.arithmetic][int(Op::rows)];
  const bool brief = in_place && l.outputs < short_run * width * vectors;
  const bool convolved = l.taps > 1;
  if (!may_fold_ || lane == group_ || lane == kernels_ || l.stride > 1) return -1;
  if (convolved) {
    if (l.outputs >= width) return -1;
  } else if (l.inputs != l.outputs || l.pad != 0 ||
             (wasted <= most_waste * double(l.outputs) && !brief)) {
    return -1;
  }
  in_place &= l.inside_to - l.inside_from == l.outputs;
  const int images = n_ - d_.spec.spatial - (kernels_ >= 0);
  int sharing = 0;  // axes whose outputs share inputs, as rows do, beside the lanes
  for (int a = images; a < n_; ++a) sharing += a != lane && loops_[a].taps > 1;
  for (int a = n_ - 1; a >= (convolved ? images : 0); --a) {
    const Loop& f = loops_[a];
    // The only such axis is worth more as rows, unless vectors would be nearly empty.
    if (f.taps > 1 && sharing == 1 && d_.outputs == 1 && l.outputs > width) continue;
    if (a == lane || a == group_ || a == channels_ || a == kernels_ || f.stride != 1) continue;
    if (in_place && f.x != l.x * (convolved ? l.window(l.outputs) : l.inputs)) continue;
    if (direct && !convolved && f.y != l.y * l.outputs) continue;
    return a;
  }
  return -1;
}

// Lanes of `rows` rows that are folded.
ptrdiff_t Traversal::run_length(int lane, ptrdiff_t rows) const {
  const Loop& l = loops_[lane];
  return (rows - 1) * l.window(l.outputs) + l.outputs;
}

// Of rows with gaps between them: the gaps are not results, and must be inputs.
void Traversal::restrict_folded(int lane, int fold, bool& in_place, bool& direct) const {
  const Loop& l = loops_[lane];
  if (fold < 0 || l.taps == 1) return;
  direct = false;
  in_place &= l.inside_to - l.inside_from == l.outputs;
}

// Of a position, with vectors along `lane`: multiply-adds, and moves where packing is needed.
double Traversal::cost(int lane) const {
  bool in_place = lane_in_place(lane), direct = lane_direct(lane);
  const int fold = fold_for(lane, in_place, direct);
  const double length = double(lane == kernels_ ? d_.outputs : loops_[lane].outputs);
  const double run = length * double(fold < 0 ? 1 : loops_[fold].outputs);
  const double width = double(d_.lanes_per_vector);
  const double computed = fold < 0 ? run : double(run_length(lane, loops_[fold].outputs));
  const double vectors = double(ptrdiff_t((computed + width - 1) / width));
  restrict_folded(lane, fold, in_place, direct);
  double cost = double(d_.inputs * d_.outputs * d_.taps) * vectors / run;
  if (!in_place) {
    // Packed inputs per output, for a block of equal extents that fills the scratch.
    double spatial = 0, packed = double(d_.inputs);
    for (int a = 0; a < n_; ++a) spatial += a != lane && a != channels_ && loops_[a].taps > 1;
    const double room = double(block_bytes) / double(size_of(d_.number)) / width / packed;
    const double side = spatial > 0 ? std::pow(std::max(room, 1.0), 1 / spatial) : 1;
    for (int a = 0; a < n_; ++a) {
      if (loops_[a].taps == 1 || a == channels_) continue;
      const double halo = double((loops_[a].taps - 1) * loops_[a].dilation);
      const double outputs = a == lane
                                 ? double(loops_[a].outputs)
                                 : std::min(std::max(side - halo, 1.0), double(loops_[a].outputs));
      packed *= (outputs * double(loops_[a].stride) + halo) / outputs;
    }
    const bool contiguous = loops_[lane].x == size_of(d_.spec.x_type);
    cost += packed * (contiguous ? contiguous_move : strided_move);
  }
  if (!direct) {
    const bool contiguous = loops_[lane].y == size_of(d_.spec.y_type);
    cost += double(d_.outputs) * (contiguous ? contiguous_move : strided_move);
  }
  return cost;
}

// Memory pages that the windows of one tile lie in, in the user's array.
double Traversal::pages_of_tile() const {
  struct Steps {
    ptrdiff_t step, count;
  } steps[max_loops];
  int n = 0;
  for (int a = 0; a < n_; ++a) {
    const ptrdiff_t count = loops_[a].taps + (a == row_ && op_ == Op::rows ? rows_ - 1 : 0);
    if (count > 1) steps[n++] = {std::abs(loops_[a].x) * loops_[a].dilation, count};
  }
  std::sort(steps, steps + n, [](const Steps& a, const Steps& b) { return a.step < b.step; });
  double span = double(d_.isa.vector_bytes * d_.isa.vectors[d_.arithmetic][int(op_)]), pages = 1;
  for (int k = 0; k < n; ++k) {
    if (steps[k].step < page) {
      span += double(steps[k].step) * double(steps[k].count - 1);
    } else {
      pages *= double(steps[k].count);
    }
  }
  return pages * (span / page + 1);
}

void Traversal::choose(int lane) {
  lane_ = lane;
  if (kernels_ >= 0) {  // a loop over kernels only where they are the lanes
    Loop& kernels = loops_[kernels_];
    kernels.outputs = kernels.inside_to = lane == kernels_ ? d_.outputs : 1;
  }
  auto settle = [&](bool in_place) {
    in_place_ = in_place;
    direct_ = lane_direct(lane);
    fold_ = fold_for(lane, in_place_, direct_);
    restrict_folded(lane, fold_, in_place_, direct_);
    set_rows();
  };
  settle(lane_in_place(lane));
  const double pages = pages_of_tile();
  const double most_pages = d_.isa.vector_bytes == 64 ? near_pages_512 : near_pages;
  bool aliased = false;
  for (int a = 0; a < n_ && op_ == Op::layer; ++a) {
    aliased |= loops_[a].taps > 1 && a != channels_ && loops_[a].x % (4 * alias_bytes) == 0;
  }
  // Where the lanes are no convolved axis, blocks at borders are packed for few outputs each.
  double inside = 1;
  for (int a = 0; a < n_ && loops_[lane].taps == 1; ++a) {
    const ptrdiff_t there = loops_[a].inside_to - loops_[a].inside_from;
    if (loops_[a].taps > 1)
      inside *= double(std::max(there, ptrdiff_t(0))) / double(loops_[a].outputs);
  }
  if (in_place_ && (aliased || inside < least_inside ||
                    (pages > most_pages && pages > pages_per_tap * double(d_.inputs * d_.taps)))) {
    settle(false);
  }
  bool border = false;
  const ptrdiff_t run = run_length(lane, fold_ < 0 ? 1 : loops_[fold_].outputs);
  for (int a = 0; a < n_; ++a) {
    border |= loops_[a].inside_from > 0 || loops_[a].inside_to < loops_[a].outputs;
  }
  needs_scratch_ = !in_place_ || !direct_ || border || run < d_.lanes_per_vector;
  // Packed inputs: a run of lanes, or with kernels as lanes what is near in the user's memory.
  others_ = 0;
  for (int a = n_ - 1; a >= 0; --a) {
    if (a != lane_ && a != fold_) other_[others_++] = a;
  }
  along_ = lane_;
  if (op_ == Op::layer) {
    auto step = [&](int a) { return loops_[a].inputs > 1 ? std::abs(loops_[a].x) : PTRDIFF_MAX; };
    // Not stable_sort, which brings a function of libstdc++ 12 that newer compilers warn of.
    std::sort(other_, other_ + others_,
              [&](int a, int b) { return std::pair(step(a), b) < std::pair(step(b), a); });
    along_ = other_[0];
  }
}

// The cheapest lane axis whose smallest block max_memory allows.
void Traversal::set_layout(size_t max_memory) {
  bool refused[max_loops] = {};
  for (;;) {
    int best = -1;
    double lowest = 0;
    for (int a = n_ - 1; a >= 0; --a) {
      if (!may_be_lane(a) || refused[a]) continue;
      const double c = cost(a);
      if (best < 0 || c < lowest) {
        best = a;
        lowest = c;
      }
    }
    if (best < 0) {
      throw ScratchError("max_memory is " + std::to_string(max_memory) + " bytes, at least " +
                         std::to_string(least(d_, 1)) + " are needed");
    }
    for (const bool fold : {true, false}) {
      may_fold_ = fold;
      choose(best);
      set_smallest_blocks();
      if (!needs_scratch_ || size_t(lay_out()) + tables(d_) <= max_memory) return;
    }
    may_fold_ = true;
    refused[best] = true;
  }
}

size_t Traversal::tables(const Direct& d) {
  const ptrdiff_t columns = d.inputs == 1 ? d.groups * d.outputs * d.taps * d.real_bytes : 0;
  return size_t(2 * 8 * (d.inputs + 1) * d.taps + columns + 512);
}

size_t Traversal::least(const Direct& d, int) {
  Traversal t(d);
  // As if nothing could be used in place; the spatial axes are lanes that are always possible.
  const ptrdiff_t zeros[max_user_axes] = {};
  t.x_ = t.y_ = Array{nullptr, zeros};
  t.set_loops();
  t.may_fold_ = false;
  size_t lowest = 0;
  for (int a = t.n_ - d.spec.spatial; a < t.n_; ++a) {
    t.choose(a);
    t.op_ = Op::bank;
    t.rows_ = int(std::min(d.outputs, ptrdiff_t(d.isa.rows[d.arithmetic][int(Op::bank)])));
    t.set_smallest_blocks();
    const size_t bytes = size_t(t.lay_out());
    if (lowest == 0 || bytes < lowest) lowest = bytes;
  }
  return lowest + tables(d) + 64 + size_t(d.batch) * sizeof(ptrdiff_t);  // axes may merge less
}

// The kernels' rows: a spatial axis whose rows share inputs, or the kernels of a bank, or any.
void Traversal::set_rows() {
  row_ = -1;
  rows_ = 1;
  spacing_ = 1;
  if (lane_ == kernels_ || lane_ == group_) {
    set_turned_rows();
    return set_tables();
  }
  const int a_max = d_.isa.rows[d_.arithmetic][int(Op::rows)];
  ptrdiff_t most_plain = 1;
  int plain = -1;
  for (int a = 0; a < n_; ++a) {
    if (a == lane_ || a == fold_ || a == group_ || a == channels_ || a == kernels_) continue;
    const Loop& loop = loops_[a];
    if (loop.dilation % loop.stride == 0 && loop.taps > 1) {
      const ptrdiff_t spacing = loop.dilation / loop.stride;
      const ptrdiff_t rows =
          std::min({ceil_div(loop.outputs, spacing), loop.taps + 1, ptrdiff_t(a_max)});
      if (rows > rows_) {
        rows_ = int(rows);
        row_ = a;
        spacing_ = spacing;
      }
    }
    if (loop.outputs >= most_plain) {
      most_plain = loop.outputs;
      plain = a;
    }
  }
  const int kernels = int(std::min(d_.outputs, ptrdiff_t(a_max)));
  // Of a layer's few taps `rows` spends most on the ends of the kernel; a bank has no ends.
  const bool layer = (d_.inputs > 1 && kernels > 2) || kernels == a_max;
  if (row_ >= 0 && rows_ >= kernels && !layer) {
    op_ = Op::rows;
  } else if (kernels > 1) {
    op_ = Op::bank;
    rows_ = kernels;
    row_ = -1;
    spacing_ = 1;
  } else if (may_be_line()) {
    op_ = Op::line;
  } else {
    op_ = Op::plain;
    row_ = plain;
    rows_ = int(std::min(most_plain, ptrdiff_t(a_max)));
  }
  set_tables();
}

// Taps next to each other along the lanes, and no others after them in the order of weights.
bool Traversal::may_be_line() const {
  const Loop& l = loops_[lane_];
  const ptrdiff_t run = run_length(lane_, fold_ < 0 ? 1 : loops_[fold_].outputs);
  bool last = true;
  for (int a = lane_ + 1; a < n_; ++a) last &= loops_[a].taps == 1;
  return d_.isa.rows[d_.arithmetic][int(Op::line)] > 0 && d_.reals == 1 && last && l.stride == 1 &&
         l.dilation == 1 && l.taps >= least_taps && run >= least_vectors * d_.lanes_per_vector;
}

// Rows along the axis whose outputs fill them best, or nearly.  The positions of a layer should be
// near each other: rather an inner axis.  With few taps, whole lines of an image are read at a time
// if an outer axis gives the rows.
void Traversal::set_turned_rows() {
  op_ = turned_;
  const int vectors = d_.isa.vectors[d_.arithmetic][int(op_)];
  const bool narrow = op_ == Op::layer && 2 * d_.padded_outputs <= d_.lanes_per_vector * vectors;
  const auto most = ptrdiff_t((narrow ? d_.isa.narrow_rows : d_.isa.rows)[d_.arithmetic][int(op_)]);
  double best = 0;
  auto consider = [&](int a) {
    if (a == group_ || a == channels_ || a == kernels_) return;
    const double filled = double(loops_[a].outputs) / double(ceil_div(loops_[a].outputs, most));
    if (filled < nearly * best) return;
    best = std::max(best, filled);
    row_ = a;
    rows_ = int(std::min(loops_[a].outputs, most));
  };
  const int images = n_ - d_.spec.spatial - (kernels_ >= 0);
  for (int a = 0; a < images; ++a) consider(a);
  if (op_ == Op::layer) {
    for (int a = images; a < n_; ++a) consider(a);
  } else {
    for (int a = n_ - 1; a >= images; --a) consider(a);
    set_slide();
  }
}

// Outputs next to each other along the last axis with taps share most of their inputs.
void Traversal::set_slide() {
  int last = n_ - 1;
  while (last > 0 && loops_[last].taps == 1) --last;
  const Loop& loop = loops_[last];
  const bool listed = loop.taps == 3 || loop.taps == 5 || loop.taps == 7;
  if (!listed || last == channels_ || loop.stride != 1 || loop.dilation != 1 || loop.outputs < 3)
    return;
  op_ = Op::slide;
  row_ = last;
  rows_ = int(std::min(loop.outputs, ptrdiff_t(d_.isa.rows[d_.arithmetic][int(op_)])));
}

// The inner table holds as many taps as its loop is worth being long for.
void Traversal::set_tables() {
  split_ = shared_axis() < 0 ? n_ : shared_axis();
  flat_rows_ = 1;
  ptrdiff_t inner = 1;
  if (op_ == Op::rows) {
    for (int a = row_ + 1; a < n_; ++a) inner *= loops_[a].taps;
    flat_rows_ = std::clamp(most_inner / inner, ptrdiff_t(1), loops_[row_].taps);
  } else if (shared_axis() < 0) {
    const ptrdiff_t most = is_turned() ? most_turned : most_inner;
    while (split_ > 0 && (split_ == n_ || inner * loops_[split_ - 1].taps <= most)) {
      inner *= loops_[--split_].taps;
    }
  }
}

}  // namespace xconv
