// One call of a Direct: how its outputs are cut into blocks, and how a block is computed.
//
// The axes are the batch axes (merged where both arrays allow it), the groups, and the spatial
// axes.  One of them is the lane axis, along which vectors run.  Where it is short and the next
// axis continues it in memory, that one is folded into the same run ("HWN" with few images: a
// run is a row of W*N lanes).  Another axis gives the rows of a kernel's tile.  The lanes of a
// layer of many kernels may be the kernels instead, whatever the layout of the images.
//
// A block whose windows lie inside the image is computed on the user's memory where its lanes are
// contiguous there.  Any other block is packed first: converted and continued beyond the edge, in
// scratch that fits the cache.  The result is written straight to the user's array, or to
// scratch and from there where lanes are not contiguous or of another type.
#pragma once

#include <memory>
#include <vector>

#include "direct.h"

namespace xconv {

// Quotients rounded up and down, of a divisor above 0.
inline ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
inline ptrdiff_t floor_div(ptrdiff_t a, ptrdiff_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

inline ptrdiff_t product(const std::vector<ptrdiff_t>& sizes, size_t from = 0) {
  ptrdiff_t n = 1;
  for (size_t a = from; a < sizes.size(); ++a) n *= sizes[a];
  return n;
}

// Batch, G, I, spatial and O.
constexpr int max_loops = max_axes + 1;

class Traversal {
 public:
  // Scratch of one worker, unless a single output needs more: half of a small second-level cache.
  static constexpr ptrdiff_t block_bytes = 256 * 1024;
  // Where lanes are kernels or groups, some of which are used at a time.
  static constexpr ptrdiff_t turned_bytes = 1024 * 1024;
  static constexpr ptrdiff_t line_bytes = 64, alias_bytes = 512;  // of a cache

  Traversal(const Direct& direct, Array x, Weights w, Array y, int workers, size_t max_memory);
  bool run(bool (*interrupted)());

  static size_t least(const Direct& direct, int workers);
  static size_t tables(const Direct& direct);  // bytes of the offset tables, and of `columns_`

 private:
  struct Loop : Extent {
    ptrdiff_t x, y;                    // bytes from one input, one output to the next
    ptrdiff_t inside_from, inside_to;  // outputs whose window lies inside the image
    ptrdiff_t block;                   // outputs of a block
    int segments;                      // blocks are cut within the segments: border, inside, border
    ptrdiff_t from[4];                 // where segments begin, and the end
    ptrdiff_t size[3], count[3];       // of the blocks in a segment
    ptrdiff_t blocks;                  // of all segments
  };

  // An array, or a block in scratch, as the kernels see it: reals from one element to the next.
  struct View {
    ptrdiff_t step[max_loops];
    ptrdiff_t kernel;  // of results: from one kernel of a bank to the next
    ptrdiff_t phase;   // from one residue of the lane axis modulo its stride to the next
    std::vector<ptrdiff_t> outer, inner;  // of an input: a Tile's tables
  };

  struct Block {
    ptrdiff_t from[max_loops], length[max_loops];
    char *x, *y;  // of the first window and output, in the user's memory or in scratch
  };

  // Runs of packed inputs that are filled at once, and the bytes from one to the next.
  struct Lines {
    ptrdiff_t count, step;
  };

  explicit Traversal(const Direct& direct);

  // Choices, in this order.
  void set_loops();
  void set_layout(size_t max_memory);
  double cost(int lane) const;
  int fold_for(int lane, bool in_place, bool direct) const;
  ptrdiff_t run_length(int lane, ptrdiff_t rows) const;
  void restrict_folded(int lane, int fold, bool& in_place, bool& direct) const;
  bool lane_in_place(int lane) const;
  bool lane_direct(int lane) const;
  double pages_of_tile() const;
  void choose(int lane);
  bool may_be_lane(int a) const;
  bool is_turned() const { return op_ == Op::layer || op_ == Op::channels || op_ == Op::slide; }
  // The axis whose taps share inputs, and are in neither of a Tile's tables; -1: none.
  int shared_axis() const {
    return op_ == Op::rows || op_ == Op::slide ? row_ : op_ == Op::line ? lane_ : -1;
  }
  void set_rows();
  void set_turned_rows();
  void set_slide();
  bool may_be_line() const;
  void set_tables();
  void set_blocks(size_t max_memory);
  void set_smallest_blocks();
  ptrdiff_t lay_out();
  double work_of_position() const;
  double work_of_block() const;
  void cut(Loop& loop, ptrdiff_t least_size, bool whole, ptrdiff_t segment_least);
  void fill_tables(View& view, bool packed) const;
  bool may_roll() const;
  int roll_vectors() const {
    return d_.isa.widths[d_.arithmetic][int(Op::roll)][loops_[row_].taps - 1];
  }
  void set_columns();
  ptrdiff_t rolled_rows(const View& view, ptrdiff_t length) const;

  // One block.
  void task(int worker, ptrdiff_t index);
  ptrdiff_t lanes_of(const Block& block) const {
    return fold_ < 0 ? block.length[lane_] : run_length(lane_, block.length[fold_]);
  }
  void compute(const Block& block, const View& x, const View& y, int kernel, int kernels) const;
  ptrdiff_t stride_along() const { return op_ == Op::layer ? 1 : loops_[along_].stride; }
  void pack(const Block& block, char* to, ptrdiff_t* maps) const;
  void load_runs(const char* from, ptrdiff_t stride, char* to, ptrdiff_t n,
                 const Lines& lines) const;
  void pack_run(const ptrdiff_t* map, ptrdiff_t first, ptrdiff_t n, const char* from, char* to,
                const Lines& lines) const;
  void fill_runs(ptrdiff_t n, char* to) const;
  void pad_runs(ptrdiff_t n, char* to) const;
  void scatter(const Block& block, const char* from, int kernels) const;
  void scatter_layer(const Block& block, const char* from) const;

  const Direct& d_;
  const Op turned_ = Op::plain;  // which weights there are beside the plain ones
  Array x_, y_;
  const char *w_ = nullptr, *turned_w_ = nullptr;
  ptrdiff_t turned_row_ = 0;  // as Weights::row
  int workers_;

  Loop loops_[max_loops];
  int n_ = 0;
  // Loops of the groups, of the summed channels (taps of a single output), and of the kernels
  // where they may be lanes (no inputs move along it); -1: none.
  int group_ = -1, channels_ = -1, kernels_ = -1;
  ptrdiff_t y_kernel_;      // bytes
  bool exact_x_, exact_y_;  // the array's elements are the accumulator's

  int lane_ = 0, fold_ = -1, row_ = -1;
  bool may_fold_ = true;
  Op op_;
  int rows_;                // the R in use
  ptrdiff_t spacing_ = 1;   // outputs from one row of a tile to the next
  int split_;               // taps of loops before it are in a Tile's outer table
  ptrdiff_t flat_rows_;     // of a kernel, in a Tile's inner table
  bool in_place_, direct_;  // whether blocks may do without packing, scattering
  bool needs_scratch_;
  bool far_, outside_;                     // the inputs are more than a near, an outer cache holds
  int along_, other_[max_loops], others_;  // of packed inputs: the innermost axis, and the rest

  View user_, packed_, result_, tiled_;
  ptrdiff_t packed_elements_, scratch_bytes_ = 0;
  std::unique_ptr<char[]> scratch_, columns_;
};

}  // namespace xconv
