#include "transpose.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace xconv {
namespace {

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, V{__VA_ARGS__})
#endif

// 16 bytes of each of as many lines as these are elements, transposed.
void transpose_square(const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step,
                      uint32_t) {
  typedef uint32_t V __attribute__((vector_size(16)));
  V in[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&in[i], from + i * from_step, 16);
  const V low0 = SHUFFLE(in[0], in[1], 0, 4, 1, 5), high0 = SHUFFLE(in[0], in[1], 2, 6, 3, 7);
  const V low1 = SHUFFLE(in[2], in[3], 0, 4, 1, 5), high1 = SHUFFLE(in[2], in[3], 2, 6, 3, 7);
  const V out[4] = {SHUFFLE(low0, low1, 0, 1, 4, 5), SHUFFLE(low0, low1, 2, 3, 6, 7),
                    SHUFFLE(high0, high1, 0, 1, 4, 5), SHUFFLE(high0, high1, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_step, &out[i], 16);
}

void transpose_square(const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step,
                      uint64_t) {
  typedef uint64_t V __attribute__((vector_size(16)));
  V a, b;
  std::memcpy(&a, from, 16);
  std::memcpy(&b, from + from_step, 16);
  const V first = SHUFFLE(a, b, 0, 2), second = SHUFFLE(a, b, 1, 3);
  std::memcpy(to, &first, 16);
  std::memcpy(to + to_step, &second, 16);
}

template <class Bits>
void transpose_bits(const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step, ptrdiff_t n,
                    ptrdiff_t elements) {
  constexpr ptrdiff_t item = sizeof(Bits), side = 16 / item, line = 64 / item;
  for (ptrdiff_t first = 0; first < elements; first += line) {  // what is read together
    const ptrdiff_t end = std::min(first + line, elements);
    for (ptrdiff_t i = 0; i < n; i += side) {
      const char* source = from + i * from_step;
      char* target = to + i * item;
      ptrdiff_t c = first;
      for (; i + side <= n && c + side <= end; c += side)
        transpose_square(source + c * item, from_step, target + c * to_step, to_step, Bits());
      for (; c < end; ++c) {
        for (ptrdiff_t k = 0; k < std::min(side, n - i); ++k) {
          std::memcpy(target + c * to_step + k * item, source + k * from_step + c * item, item);
        }
      }
    }
  }
}

}  // namespace

void transpose(ptrdiff_t item, const char* from, ptrdiff_t from_step, char* to, ptrdiff_t to_step,
               ptrdiff_t n, ptrdiff_t elements) {
  (item == 4 ? transpose_bits<uint32_t> : transpose_bits<uint64_t>)(from, from_step, to, to_step, n,
                                                                    elements);
}

}  // namespace xconv
