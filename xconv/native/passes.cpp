#include "passes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "peaks.h"
#include "pool.h"
#include "traversal.h"

namespace xconv {
namespace {

using Sizes = Passes::Sizes;

Sizes joined(Sizes a, const Sizes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// The strides of the axes but one.
Sizes without(const ptrdiff_t* strides, size_t axes, size_t axis) {
  Sizes rest(strides, strides + axes);
  rest.erase(rest.begin() + ptrdiff_t(axis));
  return rest;
}

}  // namespace

Passes::Passes(Problem given, const Isa& isa_) : problem(std::move(given)), isa(isa_) {
  auto refuse = [](const char* why) { throw std::invalid_argument(why); };
  const auto& p = problem;
  const size_t rank = p.taps.size();
  if (p.type != Type::float32 && p.type != Type::float64 && p.type != Type::complex64 &&
      p.type != Type::complex128) {
    refuse("passes are of float32, float64, complex64 or complex128");
  }
  if (rank == 0 || p.x_shape.size() < 2 + rank || p.y_shape.size() != p.x_shape.size() ||
      p.stride.size() != rank || p.dilation.size() != rank || p.pad.size() != rank) {
    refuse("shapes, stride, dilation and pad must fit the number of taps' axes");
  }
  lead = p.x_shape.size() - rank - 1;
  if (!std::equal(p.x_shape.begin(), p.x_shape.begin() + ptrdiff_t(lead), p.y_shape.begin()))
    refuse("x and y do not fit");
  for (const Sizes* sizes : {&p.x_shape, &p.y_shape}) {
    for (const ptrdiff_t n : *sizes) {
      if (n < 1) refuse("sizes must be at least 1");
    }
  }
}

std::vector<Sizes> Passes::sizes(ptrdiff_t rows) const {
  std::vector<Sizes> found{
      Sizes(problem.x_shape.begin() + ptrdiff_t(lead) + 1, problem.x_shape.end())};
  for (size_t a = 0; a < problem.taps.size(); ++a) {
    found.push_back(found.back());
    found.back()[a] = a == 0 ? rows : problem.y_shape[lead + 1 + a];
  }
  return found;
}

ptrdiff_t Passes::bytes(const Sizes& block) const {
  const auto all = sizes(block[lead]);
  Sizes written = {0};
  for (size_t a = 1; a < all.size(); ++a) written.push_back(product(all[a]));
  std::sort(written.rbegin(), written.rend());
  const ptrdiff_t images = product(Sizes(block.begin(), block.begin() + ptrdiff_t(lead)));
  // A pass reads one and writes another: no two take more than the two largest.
  return images * (written[0] + written[1]) * size_of(problem.type);
}

Direct Passes::pass(size_t axis, const Sizes& leads, ptrdiff_t first, ptrdiff_t rows) const {
  const size_t rank = problem.taps.size();
  const auto all = sizes(rows);
  Spec spec;
  spec.x_type = axis == 0 ? problem.x_type : problem.type;
  spec.y_type = problem.type;
  spec.spatial = int(rank);
  for (size_t a = 0; a < leads.size(); ++a) spec.x_axes.push_back({leads[a], int(a), 1});
  spec.x_axes.push_back({1, -1, 1});
  spec.y_axes = spec.x_axes;
  spec.kernel = {leads.back(), 1, 1};
  for (size_t a = 0; a < rank; ++a) {
    const bool mine = a == axis;
    spec.x_axes.push_back({all[axis][a], int(lead + a), 1});
    spec.y_axes.push_back({all[axis + 1][a], int(lead + a), 1});
    spec.kernel.push_back(mine ? problem.taps[a] : 1);
    spec.stride.push_back(mine ? problem.stride[a] : 1);
    spec.dilation.push_back(mine ? problem.dilation[a] : 1);
    spec.pad.push_back(mine ? problem.pad[a] : 0);
  }
  if (axis == 0) spec.pad[0] -= first * problem.stride[0];
  spec.boundary = problem.boundary;
  return Direct(std::move(spec), isa);
}

Direct Passes::whole(ptrdiff_t first, ptrdiff_t rows) const {
  const ptrdiff_t inputs = problem.x_shape[lead], outputs = problem.y_shape[lead];
  Spec spec;
  spec.x_type = problem.x_type;
  spec.y_type = problem.type;
  spec.spatial = int(problem.taps.size());
  spec.x_axes = {{1, -1, 1}, {inputs, 0, 1}};
  spec.y_axes = {{1, -1, 1}, {outputs, 0, 1}};
  spec.kernel = joined({1, outputs, inputs}, problem.taps);
  for (size_t a = 0; a < problem.taps.size(); ++a) {
    spec.x_axes.push_back({problem.x_shape[lead + 1 + a], int(1 + a), 1});
    spec.y_axes.push_back({a == 0 ? rows : problem.y_shape[lead + 1 + a], int(1 + a), 1});
  }
  spec.stride = problem.stride;
  spec.dilation = problem.dilation;
  spec.pad = problem.pad;
  spec.pad[0] -= first * problem.stride[0];
  spec.boundary = problem.boundary;
  return Direct(std::move(spec), isa);
}

size_t Passes::least() const {
  const Sizes leads(problem.x_shape.begin(), problem.x_shape.begin() + ptrdiff_t(lead));
  const ptrdiff_t rows = problem.y_shape[lead + 1];
  size_t most = whole(0, rows).least(1);
  for (size_t a = 0; a < problem.taps.size(); ++a)
    most = std::max(most, pass(a, leads, 0, rows).least(1));
  return most;
}

// The passes of one call.
class PassesRun {
 public:
  PassesRun(const Passes& passes, const Passes::Kernel& kernel, Array x, Array y,
            const Sizes& block, int workers, size_t memory)
      : s_(passes),
        p_(passes.problem),
        k_(kernel),
        x_(x),
        y_(y),
        block_(block),
        memory_(memory),
        lead_(passes.lead),
        rank_(p_.taps.size()),
        item_(size_of(p_.type)),
        is_double_(p_.type == Type::float64 || p_.type == Type::complex128),
        reals_(item_ / (is_double_ ? 8 : 4)),
        bytes_((passes.bytes(block) + 63) / 64 * 64) {
    const size_t axes = lead_ + 1 + rank_;
    x_steps_ = without(x.strides, axes, lead_);
    y_steps_ = without(y.strides, axes, lead_);
    for (size_t a = 0; a < lead_ + rank_; ++a) order_.push_back(a);
    std::sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
      return std::pair(-std::abs(x_steps_[a]), a) < std::pair(-std::abs(x_steps_[b]), b);
    });
    for (size_t a = 0; a <= lead_; ++a) {
      counts_.push_back(ceil_div(p_.y_shape[a < lead_ ? a : lead_ + 1], block[a]));
      count_ *= counts_.back();
    }
    scratch_ = std::make_unique_for_overwrite<char[]>(size_t(bytes_) * size_t(workers) + 64);
  }

  bool run(int workers, bool (*interrupted)()) {
    return run_tasks(count_, workers, interrupted,
                     [&](int worker, ptrdiff_t i) { task(worker, i); });
  }

 private:
  struct Part {
    ptrdiff_t first, rows;
    Sizes from, leads;
    const char* x;
    char* y;
  };

  void task(int worker, ptrdiff_t index) const {
    Part part;
    part.from.resize(lead_ + 1);
    Sizes size(lead_ + 1);
    for (size_t a = lead_ + 1; a-- > 0; index /= counts_[a]) {
      part.from[a] = index % counts_[a] * block_[a];
      size[a] = std::min(block_[a], p_.y_shape[a < lead_ ? a : lead_ + 1] - part.from[a]);
    }
    part.first = part.from[lead_];
    part.rows = size[lead_];
    size.pop_back();
    part.leads = std::move(size);
    part.x = x_.data;
    part.y = y_.data + part.first * y_steps_[lead_];
    for (size_t a = 0; a < lead_; ++a) {
      part.x += part.from[a] * x_steps_[a];
      part.y += part.from[a] * y_steps_[a];
    }
    char* scratch = scratch_.get() + worker * bytes_;
    scratch += -reinterpret_cast<uintptr_t>(scratch) & 63;
    const auto unsafe = unsafe_entries(part, scratch);  // after which part.x is in a near cache
    filter(part, scratch);
    repair(part, unsafe);
  }

  void filter(const Part& part, char* scratch) const {
    const ptrdiff_t outputs = p_.y_shape[lead_], inputs = p_.x_shape[lead_];
    const auto sizes = s_.sizes(part.rows);
    std::vector<Direct> passes;
    std::vector<Sizes> shapes, steps;  // of what each pass writes
    passes.reserve(rank_);
    for (size_t a = 0; a < rank_; ++a) {
      passes.push_back(s_.pass(a, part.leads, part.first, part.rows));
      shapes.push_back(joined(part.leads, sizes[a + 1]));
      steps.push_back(in_order(shapes.back()));
    }
    std::vector<char> taps;
    for (ptrdiff_t o = 0; o < outputs; ++o) {
      char* const target = part.y + o * y_.strides[lead_];
      for (ptrdiff_t term = 0; term < k_.terms * inputs; ++term) {
        const ptrdiff_t r = term / inputs, i = term % inputs;
        Array from{const_cast<char*>(part.x) + i * x_.strides[lead_], x_steps_.data()};
        for (size_t a = 0; a < rank_; ++a) {
          // From either end of the scratch, so that a pass and the next fit in it.
          char* at = scratch + (a % 2 ? bytes_ - product(shapes[a]) * item_ : 0);
          Array to{at, steps[a].data()};
          if (a + 1 == rank_ && term == 0) to = {target, y_steps_.data()};
          const Weights weights = {vector(a, r, part, o, i, taps)};
          passes[a].run(from, weights, to, 1, memory_, nullptr);
          from = to;
        }
        if (term > 0) {
          const auto add = is_double_ ? &PassesRun::add<double> : &PassesRun::add<float>;
          (this->*add)(0, target, from.data, steps.back(), shapes.back());
        }
      }
    }
  }

  // To results, what scratch holds of them; from axis number k of their order on.
  template <class Real>
  void add(size_t k, char* to, const char* from, const Sizes& steps, const Sizes& shape) const {
    typedef Real Element __attribute__((aligned(1), may_alias));
    const size_t a = order_[k];
    const ptrdiff_t to_step = y_steps_[a], from_step = steps[a];
    if (k + 1 < order_.size()) {
      for (ptrdiff_t i = 0; i < shape[a]; ++i)
        add<Real>(k + 1, to + i * to_step, from + i * from_step, steps, shape);
      return;
    }
    const bool run = to_step == item_ && from_step == item_;
    const ptrdiff_t n = run ? shape[a] * reals_ : reals_;
    for (ptrdiff_t i = 0; i < (run ? 1 : shape[a]); ++i) {
      auto* sum = reinterpret_cast<Element*>(to + i * to_step);
      const auto* term = reinterpret_cast<const Element*>(from + i * from_step);
      for (ptrdiff_t j = 0; j < n; ++j) sum[j] += term[j];
    }
  }

  // The taps (G, K) of one axis for the groups of a part.
  const char* vector(size_t axis, ptrdiff_t r, const Part& part, ptrdiff_t o, ptrdiff_t i,
                     std::vector<char>& memory) const {
    const ptrdiff_t groups = p_.y_shape[lead_ - 1], n = part.leads.back();
    const ptrdiff_t run = p_.taps[axis] * item_, inputs = p_.x_shape[lead_];
    const ptrdiff_t group = p_.y_shape[lead_] * inputs * run;
    const char* from =
        k_.vectors[axis] + (r * groups + part.from[lead_ - 1]) * group + (o * inputs + i) * run;
    if (n == 1) return from;
    memory.resize(size_t(n * run));
    for (ptrdiff_t g = 0; g < n; ++g)
      std::memcpy(memory.data() + g * run, from + g * group, size_t(run));
    return memory.data();
  }

  // Bytes from one element to the next in scratch, in the memory order of x.
  Sizes in_order(const Sizes& shape) const {
    Sizes steps(shape.size());
    ptrdiff_t step = item_;
    for (size_t k = order_.size(); k-- > 0; step *= shape[order_[k]]) steps[order_[k]] = step;
    return steps;
  }

  // Indices in a part of the entries (batch..., G) some sum of whose could leave the type's range,
  // by their largest absolute values in the rows that are read.
  std::vector<Sizes> unsafe_entries(const Part& part, char* scratch) const {
    if (p_.x_type < Type::float16) return {};  // integers are at most 2^64
    return is_double_ ? entries_beyond<double>(part, scratch)
                      : entries_beyond<float>(part, scratch);
  }

  template <class Real>
  std::vector<Sizes> entries_beyond(const Part& part, char* scratch) const {
    using Limits = std::numeric_limits<Real>;
    constexpr double least = double(Limits::min()) / double(Limits::epsilon());
    constexpr double most = double(Limits::max()) / 4;
    ptrdiff_t taken = item_;  // by the peaks, of which there are no more than outputs
    Sizes steps(lead_);       // they lie in the memory order of x
    for (size_t k = order_.size(); k-- > 0;) {
      if (order_[k] >= lead_) continue;
      steps[order_[k]] = taken;
      taken *= part.leads[order_[k]];
    }
    std::memset(scratch, 0, size_t(taken));
    taken = (taken + 63) / 64 * 64;
    find_peaks_of(part, steps, scratch, scratch + taken, (bytes_ - taken) / item_);
    std::vector<Sizes> found;
    Sizes index(lead_);
    for (;;) {
      const char* entry = scratch;
      for (size_t a = 0; a < lead_; ++a) entry += index[a] * steps[a];
      const auto* at = reinterpret_cast<const Real*>(entry);
      const double peak = at[0] > at[reals_ - 1] || at[0] != at[0] ? at[0] : at[reals_ - 1];
      const double absolute = reals_ == 1 ? peak : peak * std::sqrt(2.0);
      if (!(absolute * std::max(k_.magnitude, 1.0) <= most &&
            (peak * std::min(k_.magnitude, 1.0) >= least || peak == 0))) {
        found.push_back(index);
      }
      size_t a = lead_;
      while (a > 0 && ++index[a - 1] == part.leads[a - 1]) index[--a] = 0;
      if (a == 0) return found;
    }
  }

  // Of the rows that a part reads; `steps` are the bytes between the peaks of entries.
  void find_peaks_of(const Part& part, const Sizes& steps, char* peaks, char* room,
                     ptrdiff_t longest) const {
    ptrdiff_t low = part.first * p_.stride[0] - p_.pad[0];
    ptrdiff_t high = low + (part.rows - 1) * p_.stride[0] + (p_.taps[0] - 1) * p_.dilation[0] + 1;
    const ptrdiff_t rows = p_.x_shape[lead_ + 1];
    if (p_.boundary != Boundary::constant && (low < 0 || high > rows)) low = 0, high = rows;
    low = std::clamp(low, ptrdiff_t(0), rows);
    high = std::clamp(high, low, rows);
    // In the order of the peaks, and the summed channels where they lie among them.
    std::vector<PeakAxis> axes;
    for (const size_t a : order_) {
      const ptrdiff_t size = a < lead_ ? part.leads[a] : p_.x_shape[a + 1];
      axes.push_back({a == lead_ ? high - low : size, x_steps_[a], a < lead_ ? steps[a] : 0});
    }
    const PeakAxis channels = {p_.x_shape[lead_], x_.strides[lead_], 0};
    const auto inside = [&](const PeakAxis& axis) {
      return std::abs(axis.step) < std::abs(channels.step);
    };
    axes.insert(std::find_if(axes.begin(), axes.end(), inside), channels);
    const char* x = part.x + low * x_steps_[lead_];
    find_peaks(s_.isa, p_.x_type, p_.type, axes, x, peaks, room, longest);
  }

  void repair(const Part& part, const std::vector<Sizes>& unsafe) const {
    if (unsafe.empty()) return;
    const Direct direct = s_.whole(part.first, part.rows);
    const size_t axes = lead_ + 1 + rank_;
    const Sizes x_steps(x_.strides + lead_, x_.strides + axes);
    const Sizes y_steps(y_.strides + lead_, y_.strides + axes);
    const ptrdiff_t group = product(direct.spec.kernel) * item_;
    for (const Sizes& index : unsafe) {
      Array x{const_cast<char*>(part.x), x_steps.data()}, y{part.y, y_steps.data()};
      for (size_t a = 0; a < lead_; ++a) {
        x.data += index[a] * x_steps_[a];
        y.data += index[a] * y_steps_[a];
      }
      const ptrdiff_t g = part.from[lead_ - 1] + index.back();
      direct.run(x, {k_.weights + g * group}, y, 1, memory_, nullptr);
    }
  }

  const Passes& s_;
  const Passes::Problem& p_;
  const Passes::Kernel& k_;
  const Array x_, y_;
  const Sizes& block_;
  const size_t memory_, lead_, rank_;
  const ptrdiff_t item_;
  const bool is_double_;
  const ptrdiff_t reals_, bytes_;
  Sizes x_steps_, y_steps_, counts_;  // without I and O
  std::vector<size_t> order_;         // axes (batch..., G, spatial...) of x, outermost first
  ptrdiff_t count_ = 1;
  std::unique_ptr<char[]> scratch_;
};

bool Passes::run(const Kernel& kernel, Array x, Array y, const Sizes& block, int workers,
                 size_t memory, bool (*interrupted)()) const {
  workers = std::max(workers, 1);
  return PassesRun(*this, kernel, x, y, block, workers, memory).run(workers, interrupted);
}

}  // namespace xconv
