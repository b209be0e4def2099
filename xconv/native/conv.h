// The contract between the kernels (one set per instruction set) and the code that drives them.
//
// A kernel computes R "rows" of outputs along runs of contiguous lanes; nothing in it knows
// about borders, layouts or batches.  It works on reals of the accumulator: a complex element is
// two lanes.  Every output sums its products in one order, which is the order of the weights:
//
//   rows   y[r*y_row + q] = sum over o, k, j of
//              w[(o*kernel_rows + k)*inners + j] * x[outer[o] + (r + k)*x_row + inner[j] + q]
//          R outputs along one spatial axis share each load of the input;
//   bank   y[r*y_row + q] = sum over o, j of
//              w[r*w_row + o*inners + j] * x[outer[o] + inner[j] + q]
//          R kernels share each load of the input;
//   plain  y[r*y_row + q] = sum over o, j of
//              w[o*inners + j] * x[r*x_row + outer[o] + inner[j] + q]
//          no load is shared: strided outputs, or rows of different images;
//   layer  y[r*y_row + q] = sum over o, j of
//              w[q*w_lane + (o*inners + j)*w_row] * x[r*x_row + outer[o] + inner[j]]
//          the lanes are kernels, and R positions share each load of their weights: a vector of
//          them is contiguous, and w_lane is counted from one vector to the next;
//   channels  the same with x[... + q]: the lanes are groups, with weights of their own;
//   slide  the same again of outputs next to each other along an axis of 3, 5 or 7 taps, which
//          share each load of an input, and all of them the weights:
//          y[r*y_row + q] = sum over o, k of
//              w[q*w_lane + (o*kernel_rows + k)*w_row] * x[outer[o] + (r + k)*x_row + q]
//   roll   the same as `rows` with one entry of `outer` and R = kernel_rows, by weights
//          w[j*kernel_rows + k]: from the first of all runs to the last each output begins where
//          another ends, so that R share each load of the input
//   line   y[q] = sum over o, k of w[o*kernel_rows + k] * x[outer[o] + k + q]
//          taps next to each other along the lanes share loads, where vectors can be shifted;
//          R is 1
//
// Kernels are named <op>_<dtype>_<R>x<V>_<isa>, V vectors wide: rows_float32_4x3_avx2.
//
// This header is seen by files compiled for different instruction sets, so it holds no function
// that is not a declaration: the linker may keep any copy of an inline function.
#pragma once

#include <cstddef>
#include <cstdint>

namespace xconv {

using std::ptrdiff_t;
using std::size_t;

// Element types of arrays.
enum class Type : int {
  boolean,
  int8,
  uint8,
  int16,
  uint16,
  int32,
  uint32,
  int64,
  uint64,
  float16,
  float32,
  float64,
  complex64,
  complex128
};
constexpr int types = 14;

// What the arithmetic is done in.  Signed and unsigned integers are the same modulo 2^bits;
// `half` is float32 arithmetic on values that are rounded to float16 when loaded and stored.
enum class Number : int {
  float32,
  float64,
  complex64,
  complex128,
  uint8,
  uint16,
  uint32,
  uint64,
  boolean,
  half
};
constexpr int numbers = 10;
constexpr int arithmetics = 9;  // all but `half`, which has float32's kernels

enum class Op : int { rows, bank, plain, layer, channels, slide, line, roll };
constexpr int ops = 8;
constexpr int max_rows = 12;
constexpr int place_rows = 5;  // from which it pays that `rows` goes on from place to place

struct Tile {
  const ptrdiff_t* outer;
  ptrdiff_t outers;
  const ptrdiff_t* inner;
  ptrdiff_t inners;
  ptrdiff_t kernel_rows;  // of `rows`, where it is at least R - 1, of `slide` and of `line`
  ptrdiff_t flat_rows;    // so many rows are in `inner`: inner[j + inners] = inner[j] + x_row
  ptrdiff_t x_row;
  ptrdiff_t y_row;
  ptrdiff_t w_row;         // in elements, so half as many reals where w is complex
  ptrdiff_t w_lane;        // of `layer`, `channels` and `slide`
  bool add;                // of these: to what is in y already
  ptrdiff_t runs;          // of outputs, at least one
  ptrdiff_t x_run, y_run;  // from one to the next
  ptrdiff_t places;        // where there are such runs, at least one
  ptrdiff_t x_place, y_place;
  bool far;     // inputs of `rows` are in no near cache: they are asked for early
  bool narrow;  // tiles of `rows` have three vectors at most
  bool across;  // the tiles at one place of all runs, then the next: runs share inputs
};

// Lanes are reals and at least one vector; x and y need no alignment and may not overlap.
using Kernel = void (*)(const Tile&, const void* x, const void* w, void* y, ptrdiff_t lanes);

// Copies n elements that lie `stride` bytes apart to contiguous accumulator elements, converting.
using Load = void (*)(const void* from, ptrdiff_t stride, void* to, ptrdiff_t n);

// Copies n contiguous accumulator elements to the result's elements `stride` bytes apart.
using Store = void (*)(const void* from, void* to, ptrdiff_t stride, ptrdiff_t n);

struct Isa {
  const char* name;
  int vector_bytes;
  int rows[arithmetics][ops];              // the largest R of the kernels; 0 where there are none
  int vectors[arithmetics][ops];           // V
  int narrow_rows[arithmetics][ops];       // as many as `rows` or more: those beyond have V / 2
  int widths[arithmetics][ops][max_rows];  // V of each kernel; 0 where there is none
  Kernel kernel[arithmetics][ops][max_rows];
  Load load[types][numbers];  // null where the conversion would lose a part (complex to real)
  Store store[numbers];
  // For float32 and float64, of n contiguous ones: makes a peak the largest absolute value of them
  // and of itself, NaN if one is; or each of n peaks that of itself and of its element.
  void (*peak_of[2])(const void* from, ptrdiff_t n, void* peak);
  void (*peaks_of[2])(const void* from, ptrdiff_t n, void* peaks);
  // Does `rounds` rounds of independent multiply-adds in registers; returns the flops done.
  double (*peak[2])(ptrdiff_t rounds);  // float32, float64
};

extern const Isa isa_baseline;
#if defined(__x86_64__)
extern const Isa isa_avx2;
extern const Isa isa_avx512;
#endif

}  // namespace xconv
