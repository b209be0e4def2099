#pragma once

#include <cstddef>

namespace xconv {

using std::ptrdiff_t;

// Of n lines of contiguous elements, `from_step` bytes from one to the next, element i of each to
// line i.  Elements have 4 or 8 bytes.
void transpose(ptrdiff_t item, const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step,
               ptrdiff_t n, ptrdiff_t elements);

}  // namespace xconv
