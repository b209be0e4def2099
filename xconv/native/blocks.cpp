// How the outputs of a call are cut into blocks.

#include <algorithm>

#include "traversal.h"

namespace xconv {
namespace {

// In vector multiply-adds of one core, about 0.2 ns.  Measured on a Zen 3.
constexpr double serial_work = 150e3;  // below, waking a thread costs about what it saves
constexpr double move_work = 8;        // of a vector of outputs, beside its taps
constexpr double most_work = 400e3, least_work = 4e3;  // of a block
constexpr double least_rolled_work = 20e3;             // `roll` ends columns in vain once a block
constexpr double most_layer_work = 16e6;               // its positions are few and long

// In bytes.
constexpr ptrdiff_t run_bytes = 64 * 1024;  // of inputs under a run: stays near for all its rows

}  // namespace

void Traversal::set_smallest_blocks() {
  for (int a = 0; a < n_; ++a) loops_[a].block = 1;
  Loop& lane = loops_[lane_];
  if (is_turned()) {
    lane.block = lane.outputs;  // a part might be less than a vector of weights
  } else if (fold_ < 0) {
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
  if (op_ == Op::layer) {
    in = 1;
    out = d_.padded_outputs;
  } else if (fold_ < 0) {
    out = std::max(lane.block, width);
    in = out + (lane.taps - 1) * lane.dilation / lane.stride + 1;
    packed_.phase = in * reals;
    in *= lane.stride;
  } else {
    const Loop& fold = loops_[fold_];
    in = out = lane.window(lane.outputs);
    packed_.step[fold_] = tiled_.step[fold_] = in * reals;
    in *= fold.window(fold.block);
    out = std::max(out * fold.block, width);
    maps += fold.window(fold.block);
  }
  for (int k = 0; k < others_; ++k) {
    const int a = other_[k];
    const Loop& loop = loops_[a];
    packed_.step[a] = in * reals;
    tiled_.step[a] = out * reals;
    in *= loop.window(loop.block);
    // Steps of a power of two would have all positions of a layer in a few sets of the cache.
    if (op_ == Op::layer && in * size_of(d_.number) % alias_bytes == 0) {
      in += line_bytes / size_of(d_.number);
    }
    out *= loop.block;
    maps += loop.window(loop.block);
  }
  tiled_.kernel = out * reals;
  if (op_ == Op::bank) out *= rows_;
  packed_elements_ = in + width;  // the last run of a fold is read up to a whole vector
  const ptrdiff_t bytes =
      (packed_elements_ + out) * size_of(d_.number) + maps * ptrdiff_t(sizeof(ptrdiff_t));
  return (bytes + 127) / 64 * 64;
}

double Traversal::work_of_position() const {
  return double(d_.inputs * d_.outputs * d_.taps) / double(d_.lanes_per_vector);
}

double Traversal::work_of_block() const {
  double work = work_of_position();
  for (int a = 0; a < n_; ++a) work *= double(a == kernels_ ? 1 : loops_[a].block);
  return work;
}

void Traversal::set_blocks(size_t max_memory) {
  double positions = 1;
  for (int a = 0; a < n_; ++a) positions *= double(a == kernels_ ? 1 : loops_[a].outputs);
  const double total = positions * work_of_position();
  const double moved = positions * double(d_.outputs) / double(d_.lanes_per_vector) * move_work;
  if (total + moved < serial_work) workers_ = 1;
  ptrdiff_t budget = 0;
  if (needs_scratch_) {
    const auto allowed = ptrdiff_t(std::min(max_memory, size_t(1) << 40) - tables(d_));
    const ptrdiff_t smallest = lay_out();
    workers_ = int(std::min(ptrdiff_t(workers_), std::max(allowed / smallest, ptrdiff_t(1))));
    budget = std::min(is_turned() ? turned_bytes : block_bytes, allowed / workers_);
  }
  const double most = op_ == Op::layer ? most_layer_work : most_work;
  const int shares = op_ == Op::layer ? 4 : 8;  // of a worker: each share reads a layer's weights
  const bool rolls = may_roll() && !(outside_ && in_place_);
  const double least = rolls ? least_rolled_work : least_work;
  const double target = workers_ == 1 ? most : std::clamp(total / (workers_ * shares), least, most);

  // A run of lanes: long, but its inputs for all rows of a tile should stay in cache.
  ptrdiff_t rows_read = size_of(d_.number);
  for (int a = 0; a < n_; ++a) {
    if (a == lane_ || a == fold_) continue;
    rows_read *= loops_[a].window(a == row_ ? ptrdiff_t(rows_) : 1);
  }
  const ptrdiff_t tile = d_.lanes_per_vector * d_.isa.vectors[d_.arithmetic][int(op_)];
  Loop& run = loops_[fold_ < 0 ? lane_ : fold_];
  const ptrdiff_t run_unit = fold_ < 0 ? 1 : loops_[lane_].window(loops_[lane_].outputs);
  auto fits = [&] { return work_of_block() <= target && (!needs_scratch_ || lay_out() <= budget); };
  auto grow = [&](Loop& loop, ptrdiff_t to) {
    const ptrdiff_t before = loop.block;
    loop.block = std::min(loop.outputs, to);
    if (fits()) return true;
    loop.block = before;
    return false;
  };
  const bool whole = op_ == Op::layer && grow(loops_[row_], loops_[row_].outputs);
  if (row_ >= 0 && !whole) {
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
  bool full[max_loops] = {};
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
  // Thin borders of short runs would waste vectors: all runs are packed whole.
  const Loop& lane = loops_[lane_];
  const ptrdiff_t inside = lane.inside_to - lane.inside_from;
  if (fold_ < 0 && inside < lane.outputs && inside < 6 * tile) in_place_ = false;
  for (int a = 0; a < n_; ++a) {
    Loop& loop = loops_[a];
    if (a == lane_ && fold_ < 0) {
      cut(loop, width, false, tile);
    } else if (a == fold_) {
      cut(loop, ceil_div(width, run_unit), false, 1);
    } else {
      // A layer's packing costs little; a border of fewer rows than a tile wastes the rest of it.
      cut(loop, 1, op_ == Op::layer, a == row_ ? ptrdiff_t(rows_) : 1);
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

}  // namespace xconv
