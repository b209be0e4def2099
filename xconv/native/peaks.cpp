#include "peaks.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace xconv {
namespace {

using Axes = std::vector<PeakAxis>;

constexpr ptrdiff_t longest_run = 16384;  // elements that are compared with others as a whole
constexpr ptrdiff_t chunk = 128;          // elements that are converted at a time

// Axes that are as one in the array and among the peaks, as one.
Axes merged(const Axes& axes, ptrdiff_t item) {
  Axes found;
  for (const PeakAxis& inner : axes) {
    if (inner.size == 1) continue;
    if (!found.empty() && found.back().step == inner.size * inner.step &&
        found.back().peak == inner.size * inner.peak) {
      found.back() = {found.back().size * inner.size, inner.step, inner.peak};
    } else {
      found.push_back(inner);
    }
  }
  if (found.empty()) found.push_back({1, item, 0});
  return found;
}

template <class Visit>
void everywhere(const Axes& axes, size_t axis, const char* x, char* peaks, const Visit& visit) {
  if (axis == axes.size()) return visit(x, peaks);
  for (ptrdiff_t i = 0; i < axes[axis].size; ++i)
    everywhere(axes, axis + 1, x + i * axes[axis].step, peaks + i * axes[axis].peak, visit);
}

class Search {
 public:
  Search(const Isa& isa, Type x_type, Type type)
      : isa_(isa), x_type_(x_type), type_(type), item_(size_of(type)) {
    const bool wide = type == Type::float64 || type == Type::complex128;
    reals_ = item_ / (wide ? 8 : 4);
    peak_of_ = isa.peak_of[wide];
    peaks_of_ = isa.peaks_of[wide];
  }

  // A run of memory is compared with the next as a whole, and its elements with each other at last:
  // entries, or lines, may be short.
  void by_runs(const Axes& axes, const char* x, char* peaks, char* most, ptrdiff_t longest) const {
    ptrdiff_t run = 1;
    auto inner = axes.end();
    auto continued = [&] { return inner != axes.begin() && inner[-1].step == run * item_; };
    while (continued() && run * inner[-1].size <= longest) run *= (--inner)->size;
    Axes within(inner, axes.end());
    PeakAxis part = {1, 0, 0};  // an axis that continues the run, some of which is taken with it
    if (continued() && inner[-1].peak == 0) part = *--inner;
    Axes outer, across;
    std::partition_copy(axes.begin(), inner, std::back_inserter(outer), std::back_inserter(across),
                        [](const PeakAxis& axis) { return axis.peak != 0; });
    if (run == 1 || (across.empty() && part.size == 1) || x_type_ != type_)
      return by_elements(axes, x, peaks);
    const ptrdiff_t together = std::min(longest / run, part.size);
    within.insert(within.begin(), {together, run * item_, 0});
    everywhere(outer, 0, x, peaks, [&](const char* first, char* to) {
      std::memset(most, 0, size_t(together * run * item_));
      everywhere(across, 0, first, to, [&](const char* from, char*) {
        for (ptrdiff_t i = 0; i < part.size; i += together) {
          const ptrdiff_t n = std::min(together, part.size - i) * run;
          peaks_of_(from + i * part.step, n * reals_, most);
        }
      });
      by_elements(within, most, to);
    });
  }

 private:
  void by_elements(const Axes& axes, const char* x, char* peaks) const {
    const Axes outer(axes.begin(), axes.end() - 1);
    everywhere(outer, 0, x, peaks,
               [&](const char* from, char* to) { line(axes.back(), from, to); });
  }

  void line(const PeakAxis& axis, const char* x, char* peaks) const {
    alignas(64) char converted[chunk * 16];
    const bool exact = x_type_ == type_ && axis.step == item_;
    const ptrdiff_t most = exact ? axis.size : chunk;
    for (ptrdiff_t first = 0; first < axis.size; first += most) {
      const ptrdiff_t n = std::min(most, axis.size - first);
      const char* from = x + first * axis.step;
      if (!exact) {
        isa_.load[int(x_type_)][int(number_of(type_))](from, axis.step, converted, n);
        from = converted;
      }
      if (axis.peak == 0) {
        peak_of_(from, n * reals_, peaks);
      } else {
        peaks_of_(from, n * reals_, peaks + first * axis.peak);
      }
    }
  }

  const Isa& isa_;
  const Type x_type_, type_;
  const ptrdiff_t item_;
  ptrdiff_t reals_;
  void (*peak_of_)(const void* from, ptrdiff_t n, void* peak);
  void (*peaks_of_)(const void* from, ptrdiff_t n, void* peaks);
};

}  // namespace

void find_peaks(const Isa& isa, Type x_type, Type type, const std::vector<PeakAxis>& axes,
                const char* x, char* peaks, char* room, ptrdiff_t longest) {
  for (const PeakAxis& axis : axes) {
    if (axis.size == 0) return;
  }
  Search(isa, x_type, type)
      .by_runs(merged(axes, size_of(type)), x, peaks, room, std::min(longest, longest_run));
}

}  // namespace xconv
