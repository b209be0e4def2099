#include "traversal.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

#include "pool.h"

namespace xconv {
namespace {

// Costs are counted in vector multiply-adds of one core, about 0.2 ns.
constexpr double contiguous_move = 0.25;  // of an element, to or from scratch
constexpr double strided_move = 2;
constexpr double serial_work = 150e3;  // below, waking a thread costs about what it saves
constexpr double most_work = 400e3, least_work = 4e3;  // of a block
constexpr ptrdiff_t run_bytes = 64 * 1024;  // of inputs under a run: stays near for all its rows
constexpr double page = 4096;
constexpr double most_pages =
    140;  // under a tile: beyond, looking up addresses costs more than packing
constexpr double near_bytes = 256 * 1024;  // of inputs under a block
constexpr double most_waste = 0.15;        // of a run's vectors, before another axis is folded in
constexpr ptrdiff_t short_run = 4;         // tiles

ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
ptrdiff_t floor_div(ptrdiff_t a, ptrdiff_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

}  // namespace

Traversal::Traversal(const Direct& direct) : d_(direct) {}

Traversal::Traversal(const Direct& direct, Array x, const void* w, Array y, int workers,
                     size_t max_memory)
    : d_(direct), x_(x), y_(y), w_(static_cast<const char*>(w)), workers_(workers) {
  set_loops();
  set_layout(max_memory);
  set_blocks(max_memory);
  if (in_place_) fill_tables(user_, false);
  if (needs_scratch_) fill_tables(packed_, true);
}

// ---------------------------------------------------------------- axes

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
  for (int e = batch; e < d_.axes; ++e) {
    const bool groups = e == batch;
    if (groups && d_.groups == 1) continue;
    if (groups) group_ = n_;
    const auto at = size_t(groups ? e : e + 1);
    Loop& loop = loops_[n_++];
    static_cast<Extent&>(loop) = d_.extents[e];
    loop.x = step(x_axes[at], x_);
    loop.y = step(y_axes[at], y_);
  }
  x_channel_ = step(x_axes[size_t(batch) + 1], x_);
  y_kernel_ = step(y_axes[size_t(batch) + 1], y_);

  exact_x_ = d_.number != Number::half && number_of(d_.spec.x_type) == d_.number &&
             x_channel_ % d_.real_bytes == 0;
  exact_y_ = d_.number != Number::half && y_kernel_ % d_.real_bytes == 0;
  for (int a = 0; a < n_; ++a) {
    Loop& loop = loops_[a];
    exact_x_ &= loop.x % d_.real_bytes == 0;
    exact_y_ &= loop.y % d_.real_bytes == 0;
    const ptrdiff_t past = loop.inputs + loop.pad - loop.window(1);
    loop.inside_from = std::clamp(ceil_div(loop.pad, loop.stride), ptrdiff_t(0), loop.outputs);
    loop.inside_to = std::clamp(floor_div(past, loop.stride) + 1, loop.inside_from, loop.outputs);
  }
}

// ---------------------------------------------------------------- layout

bool Traversal::lane_in_place(int lane) const {
  return exact_x_ && loops_[lane].x == size_of(d_.number) && loops_[lane].stride == 1;
}

bool Traversal::lane_direct(int lane) const {
  return exact_y_ && loops_[lane].y == size_of(d_.number);
}

// The axis that continues a run of the lane axis, or -1.  Runs that fill their vectors badly are
// folded, and in place short ones, which are then long enough for loads to be foreseen.
int Traversal::fold_for(int lane, bool in_place, bool direct) const {
  const Loop& l = loops_[lane];
  const ptrdiff_t width = d_.lanes_per_vector;
  const double wasted = double(ceil_div(l.outputs, width) * width - l.outputs);
  const bool brief = in_place && l.outputs < short_run * width * d_.isa.vectors[d_.arithmetic];
  if (!may_fold_ || l.taps > 1 || l.stride > 1 || l.inputs != l.outputs || l.pad != 0 ||
      (wasted <= most_waste * double(l.outputs) && !brief)) {
    return -1;
  }
  for (int a = n_ - 1; a >= 0; --a) {
    const Loop& f = loops_[a];
    if (a == lane || a == group_ || f.stride != 1) continue;
    if (in_place && f.x != l.x * l.inputs) continue;
    if (direct && f.y != l.y * l.outputs) continue;
    return a;
  }
  return -1;
}

// Of an output, with vectors along `lane`: multiply-adds, and moves where packing is needed.
double Traversal::cost(int lane) const {
  const bool in_place = lane_in_place(lane), direct = lane_direct(lane);
  const int fold = fold_for(lane, in_place, direct);
  const double run = double(loops_[lane].outputs) * double(fold < 0 ? 1 : loops_[fold].outputs);
  const double width = double(d_.lanes_per_vector);
  const double vectors = double(ptrdiff_t((run + width - 1) / width));
  double cost = double(d_.inputs * d_.outputs * d_.taps) * vectors / run;
  if (!in_place) {
    // Packed inputs per output, for a block of equal extents that fills the scratch.
    double spatial = 0, packed = double(d_.inputs);
    for (int a = 0; a < n_; ++a) spatial += a != lane && loops_[a].taps > 1;
    const double room = double(block_bytes) / double(size_of(d_.number)) / width / packed;
    const double side = spatial > 0 ? std::pow(std::max(room, 1.0), 1 / spatial) : 1;
    for (int a = 0; a < n_; ++a) {
      if (loops_[a].taps == 1) continue;
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
  } steps[max_axes];
  int n = 0;
  steps[n++] = {std::abs(x_channel_), d_.inputs};
  for (int a = 0; a < n_; ++a) {
    const ptrdiff_t count = loops_[a].taps + (a == row_ && op_ == Op::rows ? rows_ - 1 : 0);
    if (count > 1) steps[n++] = {std::abs(loops_[a].x) * loops_[a].dilation, count};
  }
  std::sort(steps, steps + n, [](const Steps& a, const Steps& b) { return a.step < b.step; });
  double span = double(d_.isa.vector_bytes * d_.isa.vectors[d_.arithmetic]), pages = 1;
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
  in_place_ = lane_in_place(lane);
  direct_ = lane_direct(lane);
  fold_ = fold_for(lane, in_place_, direct_);
  set_rows();
  if (in_place_ && pages_of_tile() > most_pages) {
    in_place_ = false;
    fold_ = fold_for(lane, in_place_, direct_);
    set_rows();
  }
  bool border = false;
  ptrdiff_t run = loops_[lane].outputs * (fold_ < 0 ? 1 : loops_[fold_].outputs);
  for (int a = 0; a < n_; ++a) {
    border |= loops_[a].inside_from > 0 || loops_[a].inside_to < loops_[a].outputs;
  }
  needs_scratch_ = !in_place_ || !direct_ || border || run < d_.lanes_per_vector;
}

// The cheapest lane axis whose smallest block max_memory allows.
void Traversal::set_layout(size_t max_memory) {
  bool refused[max_axes] = {};
  for (;;) {
    int best = -1;
    double lowest = 0;
    for (int a = n_ - 1; a >= 0; --a) {
      if (a == group_ || refused[a]) continue;
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

size_t Traversal::tables(const Direct& d) { return size_t(2 * 8 * (d.inputs + 1) * d.taps + 512); }

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
    t.rows_ = int(std::min(d.outputs, ptrdiff_t(d.isa.rows[d.arithmetic])));
    t.set_smallest_blocks();
    const size_t bytes = size_t(t.lay_out());
    if (lowest == 0 || bytes < lowest) lowest = bytes;
  }
  return lowest + tables(d) + 64 + size_t(d.batch) * sizeof(ptrdiff_t);  // axes may merge less
}

// The kernels' rows: a spatial axis whose rows share inputs, or the kernels of a bank, or any.
void Traversal::set_rows() {
  const int a_max = d_.isa.rows[d_.arithmetic];
  row_ = -1;
  rows_ = 1;
  spacing_ = 1;
  ptrdiff_t most_plain = 1;
  int plain = -1;
  for (int a = 0; a < n_; ++a) {
    if (a == lane_ || a == fold_ || a == group_) continue;
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
  if (row_ >= 0 && rows_ >= kernels) {
    op_ = Op::rows;
  } else if (kernels > 1) {
    op_ = Op::bank;
    rows_ = kernels;
    row_ = -1;
    spacing_ = 1;
  } else {
    op_ = Op::plain;
    row_ = plain;
    rows_ = int(std::min(most_plain, ptrdiff_t(a_max)));
  }
  split_ = op_ == Op::rows ? row_ : n_ - 1;
}

// ---------------------------------------------------------------- blocks

void Traversal::set_smallest_blocks() {
  for (int a = 0; a < n_; ++a) loops_[a].block = 1;
  Loop& lane = loops_[lane_];
  if (fold_ < 0) {
    lane.block = std::min(lane.outputs, d_.lanes_per_vector);
  } else {
    Loop& fold = loops_[fold_];
    lane.block = lane.outputs;
    fold.block = std::min(fold.outputs, ceil_div(d_.lanes_per_vector, lane.outputs));
  }
}

// Sets the steps of the views in scratch for the present block sizes; returns a worker's bytes.
ptrdiff_t Traversal::lay_out() {
  const Loop& lane = loops_[lane_];
  const ptrdiff_t width = d_.lanes_per_vector, reals = d_.reals;
  ptrdiff_t maps = lane.window(lane.block);
  packed_.step[lane_] = tiled_.step[lane_] = reals;
  packed_.phase = 0;
  ptrdiff_t in = lane.outputs, out = lane.outputs;
  if (fold_ < 0) {
    out = std::max(lane.block, width);
    in = out + (lane.taps - 1) * lane.dilation / lane.stride + 1;
    packed_.phase = in * reals;
    in *= lane.stride;
  } else {
    const Loop& fold = loops_[fold_];
    packed_.step[fold_] = tiled_.step[fold_] = in * reals;
    in *= fold.window(fold.block);
    out = std::max(out * fold.block, width);
    maps += fold.window(fold.block);
  }
  for (int a = n_ - 1; a >= 0; --a) {
    if (a == lane_ || a == fold_) continue;
    const Loop& loop = loops_[a];
    packed_.step[a] = in * reals;
    tiled_.step[a] = out * reals;
    in *= loop.window(loop.block);
    out *= loop.block;
    maps += loop.window(loop.block);
  }
  packed_.channel = in * reals;
  in *= d_.inputs;
  tiled_.channel = out * reals;
  if (op_ == Op::bank) out *= rows_;
  packed_elements_ = in + width;  // the last run of a fold is read up to a whole vector
  const ptrdiff_t bytes =
      (packed_elements_ + out) * size_of(d_.number) + maps * ptrdiff_t(sizeof(ptrdiff_t));
  return (bytes + 127) / 64 * 64;
}

double Traversal::work_of_block() const {
  double work = double(d_.inputs * d_.outputs * d_.taps) / double(d_.lanes_per_vector);
  for (int a = 0; a < n_; ++a) work *= double(loops_[a].block);
  return work;
}

double Traversal::input_of_block() const {
  double bytes = double(d_.inputs * size_of(d_.number));
  for (int a = 0; a < n_; ++a) bytes *= double(loops_[a].window(loops_[a].block));
  return bytes;
}

void Traversal::set_blocks(size_t max_memory) {
  double total = double(d_.inputs * d_.outputs * d_.taps) / double(d_.lanes_per_vector);
  for (int a = 0; a < n_; ++a) total *= double(loops_[a].outputs);
  if (total < serial_work) workers_ = 1;
  ptrdiff_t budget = 0;
  if (needs_scratch_) {
    const auto allowed = ptrdiff_t(std::min(max_memory, size_t(1) << 40) - tables(d_));
    const ptrdiff_t smallest = lay_out();
    workers_ = int(std::min(ptrdiff_t(workers_), std::max(allowed / smallest, ptrdiff_t(1))));
    budget = std::min(block_bytes, allowed / workers_);
  }
  const double target =
      workers_ == 1 ? most_work : std::clamp(total / (workers_ * 8), least_work, most_work);

  // A run of lanes: long, but its inputs for all rows of a tile should stay in cache.
  ptrdiff_t rows_read = d_.inputs * size_of(d_.number);
  for (int a = 0; a < n_; ++a) {
    if (a == lane_ || a == fold_) continue;
    rows_read *= loops_[a].window(a == row_ ? ptrdiff_t(rows_) : 1);
  }
  const ptrdiff_t tile = d_.lanes_per_vector * d_.isa.vectors[d_.arithmetic];
  Loop& run = loops_[fold_ < 0 ? lane_ : fold_];
  const ptrdiff_t run_unit = fold_ < 0 ? 1 : loops_[lane_].outputs;
  auto fits = [&] {
    return work_of_block() <= target && input_of_block() <= near_bytes &&
           (!needs_scratch_ || lay_out() <= budget);
  };
  auto grow = [&](Loop& loop, ptrdiff_t to) {
    const ptrdiff_t before = loop.block;
    loop.block = std::min(loop.outputs, to);
    if (fits()) return true;
    loop.block = before;
    return false;
  };
  if (row_ >= 0) {
    for (ptrdiff_t rows = rows_; rows > 1 && !grow(loops_[row_], rows * spacing_);)
      rows = (rows + 1) / 2;
  }
  const ptrdiff_t longest = std::max(tile, run_bytes / rows_read);
  if (run.block * run_unit < tile) grow(run, ceil_div(tile, run_unit));
  while (run.block < run.outputs && 2 * run.block * run_unit <= longest &&
         grow(run, 2 * run.block)) {
  }
  if (2 * run.block * run_unit > longest && run.outputs * run_unit <= longest)
    grow(run, run.outputs);
  // Then the axis that saves most of the inputs that neighbouring blocks share, while one can.
  bool full[max_axes] = {};
  for (;;) {
    int best = -1;
    double most = 0;
    for (int a = n_ - 1; a >= 0; --a) {
      const Loop& loop = loops_[a];
      if (full[a] || a == group_ || a == lane_ || a == fold_ || loop.block == loop.outputs)
        continue;
      const ptrdiff_t twice = std::min(loop.outputs, 2 * loop.block);
      const double saved = double(loop.window(loop.block)) * double(twice) /
                           (double(loop.window(twice)) * double(loop.block));
      if (saved > most) {
        most = saved;
        best = a;
      }
    }
    if (best < 0) break;
    full[best] = !grow(loops_[best], 2 * loops_[best].block);
  }
  if (needs_scratch_) scratch_bytes_ = lay_out();

  const ptrdiff_t width = d_.lanes_per_vector;
  for (int a = 0; a < n_; ++a) {
    Loop& loop = loops_[a];
    if (a == lane_ && fold_ < 0) {
      // Thin borders would waste vectors, so a short run is packed whole.
      const bool whole = loop.inside_to - loop.inside_from < 6 * tile;
      cut(loop, width, whole, tile);
    } else if (a == fold_) {
      cut(loop, ceil_div(width, run_unit), false, 1);
    } else {
      cut(loop, 1, false, 1);
    }
  }
}

// Segments have at least `segment_least` outputs, and a single one if `whole`.
void Traversal::cut(Loop& loop, ptrdiff_t least_size, bool whole, ptrdiff_t segment_least) {
  ptrdiff_t inside_from = loop.inside_from, inside_to = loop.inside_to;
  if (inside_from > 0) inside_from = std::max(inside_from, segment_least);
  if (inside_to < loop.outputs) inside_to = std::min(inside_to, loop.outputs - segment_least);
  loop.segments = 0;
  loop.from[0] = 0;
  auto add = [&](ptrdiff_t to) {
    const int s = loop.segments;
    const ptrdiff_t n = to - loop.from[s];
    if (n <= 0) return;
    // Without scratch, a remainder of less than a vector has to join the block before it.
    const ptrdiff_t short_of = needs_scratch_ ? 1 : least_size;
    loop.count[s] = std::max(ptrdiff_t(1), (n + loop.block - short_of) / loop.block);
    loop.size[s] = loop.block;
    loop.from[++loop.segments] = to;
  };
  if (in_place_ && !whole && inside_from < inside_to) {
    add(inside_from);
    add(inside_to);
  }
  add(loop.outputs);
  loop.blocks = 0;
  for (int s = 0; s < loop.segments; ++s) loop.blocks += loop.count[s];
}

// ---------------------------------------------------------------- tables

void Traversal::fill_tables(View& view, bool packed) const {
  if (!packed) {
    View& user = view;
    for (int a = 0; a < n_; ++a) user.step[a] = loops_[a].x / d_.real_bytes;
    user.channel = x_channel_ / d_.real_bytes;
    user.phase = 0;
  }
  // Offsets of all combinations of taps of the loops [from, to), in C order.
  auto combine = [&](std::vector<ptrdiff_t>& table, int from, int to) {
    for (int a = from; a < to; ++a) {
      const Loop& loop = loops_[a];
      if (loop.taps == 1) continue;
      std::vector<ptrdiff_t> longer;
      longer.reserve(table.size() * size_t(loop.taps));
      for (ptrdiff_t offset : table) {
        for (ptrdiff_t t = 0; t < loop.taps; ++t) {
          const ptrdiff_t u = t * loop.dilation;
          longer.push_back(offset + (packed && a == lane_
                                         ? u % loop.stride * view.phase + u / loop.stride * d_.reals
                                         : u * view.step[a]));
        }
      }
      table = std::move(longer);
    }
  };
  view.outer.reserve(size_t(d_.inputs));
  for (ptrdiff_t i = 0; i < d_.inputs; ++i) view.outer.push_back(i * view.channel);
  combine(view.outer, 0, split_);
  view.inner.push_back(0);
  combine(view.inner, op_ == Op::rows ? split_ + 1 : split_, n_);
}

// ---------------------------------------------------------------- running

bool Traversal::run(bool (*interrupted)()) {
  ptrdiff_t count = 1;
  for (int a = 0; a < n_; ++a) count *= loops_[a].blocks;
  workers_ = int(std::min(ptrdiff_t(workers_), count));
  if (needs_scratch_) {
    scratch_ =
        std::make_unique_for_overwrite<char[]>(size_t(scratch_bytes_) * size_t(workers_) + 64);
  }
  for (int a = 0; a < n_; ++a) result_.step[a] = loops_[a].y / d_.real_bytes;
  result_.channel = y_kernel_ / d_.real_bytes;
  const ParallelLoop loop{
      count,
      [](void* self, int worker, ptrdiff_t i) { static_cast<Traversal*>(self)->task(worker, i); },
      this, interrupted};
  return run_loop(loop, workers_);
}

void Traversal::task(int worker, ptrdiff_t index) {
  Block block;
  bool inside = true;
  block.x = x_.data;
  block.y = y_.data;
  for (int a = n_ - 1; a >= 0; --a) {
    const Loop& loop = loops_[a];
    ptrdiff_t i = index % loop.blocks;
    index /= loop.blocks;
    int s = 0;
    while (i >= loop.count[s]) i -= loop.count[s++];
    const ptrdiff_t from = loop.from[s] + i * loop.size[s];
    const ptrdiff_t to = i + 1 == loop.count[s] ? loop.from[s + 1] : from + loop.size[s];
    block.from[a] = from;
    block.length[a] = to - from;
    inside &= from >= loop.inside_from && to <= loop.inside_to;
    block.x += (from * loop.stride - loop.pad) * loop.x;
    block.y += from * loop.y;
  }
  ptrdiff_t lanes = block.length[lane_];
  if (fold_ >= 0) lanes *= block.length[fold_];
  const bool whole = lanes >= d_.lanes_per_vector;
  const bool in_place = in_place_ && inside && whole, direct = direct_ && whole;
  char* tile = nullptr;
  if (!in_place || !direct) {
    char* scratch = scratch_.get() + worker * scratch_bytes_;
    scratch += -reinterpret_cast<uintptr_t>(scratch) & 63;
    tile = scratch + packed_elements_ * size_of(d_.number);
    if (!in_place) {
      const ptrdiff_t past = (scratch_bytes_ - 64) / ptrdiff_t(sizeof(ptrdiff_t));
      ptrdiff_t maps = 0;
      for (int a = 0; a < n_; ++a) maps += loops_[a].window(block.length[a]);
      pack(block, scratch, reinterpret_cast<ptrdiff_t*>(scratch) + past - maps);
      block.x = scratch;
    }
  }
  const int at_once = op_ == Op::bank ? rows_ : 1;
  char* const y = block.y;
  for (ptrdiff_t o = 0; o < d_.outputs; o += at_once) {
    const int kernels = int(std::min(ptrdiff_t(at_once), d_.outputs - o));
    block.y = direct ? y + o * y_kernel_ : tile;
    compute(block, in_place ? user_ : packed_, direct ? result_ : tiled_, int(o), kernels);
    if (!direct) {
      block.y = y + o * y_kernel_;
      scatter(block, tile, kernels);
    }
  }
}

void Traversal::compute(const Block& block, const View& x, const View& y, int kernel,
                        int kernels) const {
  const ptrdiff_t real = d_.real_bytes;
  const ptrdiff_t per_kernel = d_.inputs * d_.taps;
  ptrdiff_t lanes = block.length[lane_] * d_.reals;
  if (fold_ >= 0) lanes *= block.length[fold_];
  lanes = std::max(lanes, d_.lanes_per_vector * d_.reals);  // scratch has room for a whole vector
  const ptrdiff_t group = group_ < 0 ? 0 : block.from[group_];
  const ptrdiff_t weight = d_.spec.kernel_is_real ? real : size_of(d_.number);
  const char* w = w_ + (group * d_.outputs + kernel) * per_kernel * weight;

  Tile tile;
  tile.outer = x.outer.data();
  tile.outers = ptrdiff_t(x.outer.size());
  tile.inner = x.inner.data();
  tile.inners = ptrdiff_t(x.inner.size());
  tile.kernel_rows = op_ == Op::rows ? loops_[row_].taps : 1;
  tile.x_row = row_ < 0 ? 0 : spacing_ * loops_[row_].stride * x.step[row_];
  tile.y_row = row_ < 0 ? y.channel : spacing_ * y.step[row_];
  tile.w_row = per_kernel;

  // Rows of a tile at every position of the other axes: the innermost moves first, so that what
  // its windows share stays in the nearest cache.
  int walked[max_axes], walks = 0;
  ptrdiff_t position[max_axes];
  for (int a = 0; a < n_; ++a) {
    if (a == lane_ || a == fold_ || a == row_ || block.length[a] == 1) continue;
    walked[walks] = a;
    position[walks++] = 0;
  }
  auto everywhere = [&](int rows, ptrdiff_t at) {
    const Kernel kernel_of_rows = d_.isa.kernel[d_.arithmetic][int(op_)][rows - 1];
    const char* x_at = block.x;
    char* y_at = block.y;
    if (row_ >= 0) {
      x_at += at * loops_[row_].stride * x.step[row_] * real;
      y_at += at * y.step[row_] * real;
    }
    for (;;) {
      kernel_of_rows(tile, x_at, w, y_at, lanes);
      int k = walks - 1;
      for (; k >= 0; --k) {
        const int a = walked[k];
        const ptrdiff_t x_step = loops_[a].stride * x.step[a] * real, y_step = y.step[a] * real;
        if (++position[k] < block.length[a]) {
          x_at += x_step;
          y_at += y_step;
          break;
        }
        x_at -= (position[k] - 1) * x_step;
        y_at -= (position[k] - 1) * y_step;
        position[k] = 0;
      }
      if (k < 0) return;
    }
  };
  if (row_ < 0) return everywhere(kernels, 0);
  const ptrdiff_t n = block.length[row_];
  for (ptrdiff_t residue = 0; residue < std::min(spacing_, n); ++residue) {
    ptrdiff_t left = ceil_div(n - residue, spacing_), at = residue;
    for (ptrdiff_t tiles = ceil_div(left, rows_); tiles > 0; --tiles) {
      const ptrdiff_t rows = ceil_div(left, tiles);
      everywhere(int(rows), at);
      at += rows * spacing_;
      left -= rows;
    }
  }
}

}  // namespace xconv
