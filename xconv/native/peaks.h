// The largest absolute values of the entries of an array.
#pragma once

#include <vector>

#include "direct.h"

namespace xconv {

// Bytes from one element of the array to the next, and from one peak to the next: 0 where the axis
// is one of an entry's own.
struct PeakAxis {
  ptrdiff_t size, step, peak;
};

// Makes each peak the largest absolute value of itself and of its entry, NaN if one is.  The axes
// are sorted, the longest steps first, and so are the peaks, without gaps.  They are of `type`, a
// float or complex one: of complex elements either both parts are of the larger of the parts, or
// the first part is that of all.  `room` holds `longest` elements of `type`.
void find_peaks(const Isa& isa, Type x_type, Type type, const std::vector<PeakAxis>& axes,
                const char* x, char* peaks, char* room, ptrdiff_t longest);

}  // namespace xconv
