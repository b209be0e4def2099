#include "traversal.h"

#include <algorithm>

#include "pool.h"
#include "transpose.h"

namespace xconv {

namespace {

// In bytes.
constexpr ptrdiff_t nearest_bytes = 24 * 1024;    // most of a small first-level cache
constexpr double near_inputs = 1024 * 1024;       // a second-level cache
constexpr double outer_inputs = 8 * 1024 * 1024;  // a third-level cache, or a share of it

// Tiles of few taps ask for all that they expect at their beginning.  Of what is in memory it is
// better less: narrow ones are a tenth to a third faster (Zen 5), where a run has a few of them.
constexpr ptrdiff_t few_taps = 36, long_run = 8;  // in vectors

// Inputs of a column of `roll` that stay near for the next one, and rounds: the first shares fewer
// loads.
constexpr ptrdiff_t rolled_bytes = 192 * 1024, least_rounds = 2;

}  // namespace

Traversal::Traversal(const Direct& direct) : d_(direct) {}

Traversal::Traversal(const Direct& direct, Array x, Weights w, Array y, int workers,
                     size_t max_memory)
    : d_(direct),
      turned_(w.turned ? direct.turned() : Op::plain),
      x_(x),
      y_(y),
      w_(static_cast<const char*>(w.plain)),
      turned_w_(static_cast<const char*>(w.turned)),
      turned_row_(w.row),
      workers_(workers) {
  set_loops();
  double inputs = double(size_of(d_.number));
  for (int a = 0; a < n_; ++a) inputs *= double(loops_[a].inputs);
  far_ = inputs > near_inputs;
  outside_ = inputs > outer_inputs;
  set_layout(max_memory);
  set_blocks(max_memory);
  if (in_place_) fill_tables(user_, false);
  if (needs_scratch_) fill_tables(packed_, true);
  if (may_roll() && (needs_scratch_ || !outside_)) set_columns();
}

// Whether `roll` has a kernel for what `rows` does.
bool Traversal::may_roll() const {
  if (op_ != Op::rows || spacing_ != 1 || d_.inputs > 1) return false;
  for (int a = 0; a < split_; ++a) {
    if (loops_[a].taps > 1) return false;
  }
  return loops_[row_].taps <= max_rows && roll_vectors() > 0;
}

// The weights as it takes them.
void Traversal::set_columns() {
  const ptrdiff_t rows = loops_[row_].taps, columns = d_.taps / rows, item = d_.real_bytes;
  const ptrdiff_t kernel = d_.taps * item, kernels = d_.groups * d_.outputs;
  columns_ = std::make_unique_for_overwrite<char[]>(size_t(kernels * kernel));
  for (ptrdiff_t k = 0; k < kernels; ++k) {
    transpose(item, w_ + k * kernel, columns * item, columns_.get() + k * kernel, rows * item, rows,
              columns);
  }
}

// How many of so many rows of outputs it makes of a column at a time; 0: none at all.
ptrdiff_t Traversal::rolled_rows(const View& view, ptrdiff_t length) const {
  if (!columns_ || (outside_ && &view == &user_)) return 0;
  const ptrdiff_t rows = loops_[row_].taps, columns = d_.taps / rows;
  const ptrdiff_t width = roll_vectors() * d_.isa.vector_bytes + line_bytes;
  const ptrdiff_t span = std::abs(view.inner[size_t(columns) - 1] - view.inner[0]) * d_.real_bytes;
  const ptrdiff_t fit = rolled_bytes / std::min(width + span, width * columns);
  const ptrdiff_t rounds = std::min(length, fit) / rows;
  return rounds >= least_rounds ? rounds * rows : 0;
}

void Traversal::fill_tables(View& view, bool packed) const {
  if (!packed) {
    View& user = view;
    for (int a = 0; a < n_; ++a) user.step[a] = loops_[a].x / d_.real_bytes;
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
  view.outer.push_back(0);
  view.inner.push_back(0);
  combine(view.outer, 0, split_);
  combine(view.inner, shared_axis() < 0 ? split_ : split_ + 1, n_);
  if (op_ != Op::rows) return;
  const size_t inners = view.inner.size();
  view.inner.reserve(inners * size_t(flat_rows_));
  const ptrdiff_t x_row = spacing_ * loops_[row_].stride * view.step[row_];
  while (view.inner.size() < inners * size_t(flat_rows_)) {
    view.inner.push_back(view.inner[view.inner.size() - inners] + x_row);
  }
}

bool Traversal::run(bool (*interrupted)()) {
  ptrdiff_t count = 1;
  for (int a = 0; a < n_; ++a) count *= loops_[a].blocks;
  workers_ = int(std::min(ptrdiff_t(workers_), count));
  if (needs_scratch_) {
    scratch_ =
        std::make_unique_for_overwrite<char[]>(size_t(scratch_bytes_) * size_t(workers_) + 64);
  }
  for (int a = 0; a < n_; ++a) result_.step[a] = loops_[a].y / d_.real_bytes;
  result_.kernel = y_kernel_ / d_.real_bytes;
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
  const ptrdiff_t lanes = lanes_of(block);
  const bool whole = op_ == Op::layer || lanes >= d_.lanes_per_vector;
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
  const ptrdiff_t at_once = op_ == Op::layer ? d_.outputs : op_ == Op::bank ? rows_ : 1;
  char* const y = block.y;
  for (ptrdiff_t o = 0; o < d_.outputs; o += at_once) {
    const int kernels = op_ == Op::layer ? 1 : int(std::min(at_once, d_.outputs - o));
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
  // Scratch has room for a whole vector.
  ptrdiff_t lanes = std::max(lanes_of(block), d_.lanes_per_vector) * d_.reals;
  const ptrdiff_t group = group_ < 0 ? 0 : block.from[group_];
  const ptrdiff_t weight = d_.spec.kernel_is_real ? real : size_of(d_.number);

  Tile tile;
  tile.outer = x.outer.data();
  tile.outers = ptrdiff_t(x.outer.size());
  tile.inner = x.inner.data();
  tile.inners = ptrdiff_t(x.inner.size()) / flat_rows_;
  tile.kernel_rows = shared_axis() < 0 ? 1 : loops_[shared_axis()].taps;
  tile.flat_rows = flat_rows_;
  tile.x_row = row_ < 0 ? 0 : spacing_ * loops_[row_].stride * x.step[row_];
  tile.y_row = row_ < 0 ? y.kernel : spacing_ * y.step[row_];
  tile.add = false;
  tile.far = far_ && &x == &user_;
  tile.narrow = outside_ && &x == &user_ && tile.kernel_rows * tile.inners < few_taps &&
                lanes > long_run * d_.lanes_per_vector * d_.reals;
  const char* w;
  if (op_ == Op::layer) {
    w = turned_w_ + group * d_.padded_outputs * per_kernel * weight;
    tile.w_row = turned_row_ > 0 ? turned_row_ : d_.lanes_per_vector;
    tile.w_lane = turned_row_ > 0 ? 1 : per_kernel;
    lanes = d_.padded_outputs;
  } else if (is_turned()) {
    tile.w_row = turned_row_ > 0 ? turned_row_ : d_.groups;
    tile.w_lane = 1;
    w = turned_w_ + kernel * per_kernel * tile.w_row * weight;
  } else {
    tile.w_row = per_kernel;
    w = w_ + (group * d_.outputs + kernel) * per_kernel * weight;
  }

  int walked[max_loops], walks = 0;
  ptrdiff_t position[max_loops];
  for (int a = 0; a < n_; ++a) {
    if (a == lane_ || a == fold_ || a == row_ || block.length[a] == 1) continue;
    walked[walks] = a;
    position[walks++] = 0;
  }
  // A call's runs are positions of the innermost axis, so that what their windows share stays in
  // the nearest cache; where they share none, the tiles of one position, or of a few that fit
  // there.
  const int inner = walks > 0 ? walked[walks - 1] : -1;
  const bool down = row_ >= 0 && op_ != Op::layer && (inner < 0 || loops_[inner].taps == 1);
  ptrdiff_t places = 1;
  tile.runs = tile.places = 1;
  tile.x_run = tile.y_run = tile.x_place = tile.y_place = 0;
  tile.across = false;
  if (inner >= 0 && !down) {
    --walks;
    tile.runs = block.length[inner];
    tile.x_run = loops_[inner].stride * x.step[inner];
    tile.y_run = y.step[inner];
    tile.across = op_ == Op::layer || (&x == &packed_ && loops_[inner].taps > 1);
  } else if (inner >= 0) {
    --walks;
    places = block.length[inner];
    tile.x_place = loops_[inner].stride * x.step[inner];
    tile.y_place = y.step[inner];
  }
  const ptrdiff_t x_row = row_ < 0 ? 0 : loops_[row_].stride * x.step[row_] * real;
  const ptrdiff_t y_row = row_ < 0 ? 0 : y.step[row_] * real;
  auto compute_rows = [&](int rows, ptrdiff_t at, const char* x_at, char* y_at) {
    d_.isa.kernel[d_.arithmetic][int(op_)][rows - 1](tile, x_at + at * x_row, w, y_at + at * y_row,
                                                     lanes);
  };
  auto everywhere = [&](auto&& compute_at) {
    const char* x_at = block.x;
    char* y_at = block.y;
    for (;;) {
      compute_at(x_at, y_at);
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
  const ptrdiff_t at_once = down ? rolled_rows(x, block.length[row_]) : 0;
  // As many rows as `roll` makes, from the first on.
  auto roll = [&](const char* x_at, char* y_at) {
    if (at_once == 0) return ptrdiff_t(0);
    const ptrdiff_t rows = tile.kernel_rows, all = block.length[row_] / rows * rows;
    const char* columns = columns_.get() + (w - w_);
    for (ptrdiff_t at = 0; at < all; at += at_once) {
      tile.runs = std::min(at_once, all - at) / rows;
      d_.isa.kernel[d_.arithmetic][int(Op::roll)][rows - 1](tile, x_at + at * x_row, columns,
                                                            y_at + at * y_row, lanes);
    }
    return all;
  };
  // Tiles of so many rows, in order from the first on: two sizes, the larger ones first.
  auto tiles_of_rows = [&](ptrdiff_t first, auto&& visit) {
    const ptrdiff_t n = block.length[row_];
    for (ptrdiff_t residue = first; residue < std::min(first + spacing_, n); ++residue) {
      const ptrdiff_t left = ceil_div(n - residue, spacing_), tiles = ceil_div(left, rows_);
      const ptrdiff_t rows = ceil_div(left, tiles), larger = left - tiles * (rows - 1);
      visit(int(rows), residue, larger);
      if (larger < tiles) {
        visit(int(rows) - 1, residue + larger * rows * spacing_, tiles - larger);
      }
    }
  };
  auto all_rows = [&] {
    if (row_ < 0) {
      everywhere([&](const char* x_at, char* y_at) { compute_rows(kernels, 0, x_at, y_at); });
    } else if (down) {
      // Images that come from memory are as fast one by one.
      const bool together = at_once > 0 || (op_ == Op::rows && rows_ >= place_rows && !outside_);
      const ptrdiff_t room = at_once > 0 ? rolled_bytes : nearest_bytes;
      const ptrdiff_t fit = together ? room / (block.length[row_] * lanes * real) : 1;
      const ptrdiff_t near = std::max(fit, ptrdiff_t(1));
      everywhere([&](const char* x_at, char* y_at) {
        for (ptrdiff_t left = places; left > 0; left -= tile.places) {
          tile.places = std::min(left, near);
          tiles_of_rows(roll(x_at, y_at), [&](int rows, ptrdiff_t at, ptrdiff_t tiles) {
            tile.runs = tiles;
            tile.x_run = rows * tile.x_row;
            tile.y_run = rows * tile.y_row;
            compute_rows(rows, at, x_at, y_at);
          });
          x_at += tile.places * tile.x_place * real;
          y_at += tile.places * tile.y_place * real;
        }
      });
    } else {
      tiles_of_rows(0, [&](int rows, ptrdiff_t at, ptrdiff_t tiles) {
        for (ptrdiff_t i = 0; i < tiles; ++i, at += rows * spacing_) {
          everywhere([&](const char* x_at, char* y_at) { compute_rows(rows, at, x_at, y_at); });
        }
      });
    }
  };
  if (op_ != Op::layer) return all_rows();
  // Some taps for all positions, so that their weights stay in the nearest cache; then the next.
  const auto inners = ptrdiff_t(x.inner.size());
  const ptrdiff_t panel = d_.isa.vector_bytes * d_.isa.vectors[d_.arithmetic][int(op_)];
  const ptrdiff_t parts = ceil_div(inners * panel, nearest_bytes);
  tile.outers = 1;
  for (ptrdiff_t o = 0; o < ptrdiff_t(x.outer.size()); ++o) {
    tile.outer = &x.outer[size_t(o)];
    tile.inner = x.inner.data();
    for (ptrdiff_t left = parts; left > 0; --left) {
      tile.inners = ceil_div(x.inner.data() + inners - tile.inner, left);
      all_rows();
      w += tile.inners * tile.w_row * weight;
      tile.inner += tile.inners;
      tile.add = true;
    }
  }
}

}  // namespace xconv
