// Outputs of a strip: a thread goes down the rows with the sums of TAPS_H rows of outputs at once.
//
// For images whose lanes (batch or groups) follow each other in memory, with one filter for all.
// Threads that follow each other take lanes, then RX columns each, and read them from memory as
// they are: each element of a row meets all taps of its column window in registers, so that it is
// read once for TAPS_H rows of outputs, and the next row is on its way meanwhile.  Each output
// sums its products in the kernel's order, as in tiled.cu.
//
// Put in front: Input, Value, Sum, and TAPS_H, TAPS_W, RX (columns of outputs of a thread),
// STRIDE_W, DILATION_W, THREADS, FILTER, and X_COLUMN and Y_COLUMN, the elements from one column
// to the next.

struct Call {
    const Input* x;
    Value* y;
    const Sum* w;
    long long x_row, x_lane, y_row, y_lane;
    int rows_in, rows_out, rows_low, rows_boundary;
    int columns_in, columns_out, columns_low, columns_boundary;
    int lanes, positions;  // threads that have work: lanes times groups of RX columns
    int parts, strips;     // blocks along positions, and along rows
    int rows;              // of outputs of a strip
    int outers;
    Outer outer[8];        // those that change fastest first
    Sum cval;
    Sum filter[FILTER];
};

constexpr int WINDOW = (RX - 1) * STRIDE_W + (TAPS_W - 1) * DILATION_W + 1;

// Rows whose windows all lie in the image, one after the other.
struct Inside {
    const Input* x;
    long long down;

    __device__ inline void next(const Call&, Sum (&v)[WINDOW])
    {
#pragma unroll
        for (int c = 0; c < WINDOW; ++c) v[c] = converted(x[c * (X_COLUMN)]);
        x += down;
    }
    static __device__ inline bool has(int) { return true; }
};

// Those that reach beyond its edges: where rows and columns lie, these THREADS apart; -1 for none.
struct Edge {
    const Input* x;
    const int *rows, *columns;
    int left;  // columns of outputs

    __device__ inline void next(const Call& call, Sum (&v)[WINDOW])
    {
        const int row = *rows++;
        const Input* from = x + row * call.x_row;
#pragma unroll
        for (int c = 0; c < WINDOW; ++c) {
            const int column = row < 0 ? -1 : columns[c * THREADS];
            v[c] = call.cval;
            if (column >= 0) v[c] = converted(from[column * (X_COLUMN)]);
        }
    }
    __device__ inline bool has(int column) const { return column < left; }
};

template <class Rows>
static __device__ inline void go_down(const Call& call, Rows rows, Value* y, int height)
{
    Sum sum[TAPS_H][RX] = {}, ahead[WINDOW];  // sum[0] is of the row of outputs that ends first
    rows.next(call, ahead);
#pragma unroll 1
    for (int r = 1; r <= height; ++r) {
        Sum v[WINDOW];
#pragma unroll
        for (int c = 0; c < WINDOW; ++c) v[c] = ahead[c];
        if (r < height) rows.next(call, ahead);
#pragma unroll
        for (int a = 0; a < TAPS_H; ++a)
#pragma unroll
            for (int t = 0; t < TAPS_W; ++t)
#pragma unroll
                for (int b = 0; b < RX; ++b)
                    sum[a][b] = mad(v[b * STRIDE_W + t * DILATION_W],
                                    call.filter[(TAPS_H - 1 - a) * TAPS_W + t], sum[a][b]);
        if (r >= TAPS_H) {
#pragma unroll
            for (int b = 0; b < RX; ++b)
                if (rows.has(b)) y[b * (Y_COLUMN)] = Convert<Value>::of(sum[0][b]);
            y += call.y_row;
        }
#pragma unroll
        for (int a = 0; a < TAPS_H; ++a)
#pragma unroll
            for (int b = 0; b < RX; ++b) sum[a][b] = a + 1 < TAPS_H ? sum[a + 1][b] : Sum{};
    }
}

// The first column of outputs of a thread.  The last ones are moved back, to end with the row: they
// sum some outputs once more, which are the same.
static __device__ inline int column_of(const Call& call, int position)
{
    const int column = position / call.lanes * RX, last = call.columns_out - RX;
    return last > 0 && column > last ? last : column;
}

extern "C" __global__ void __launch_bounds__(THREADS) strips(const __grid_constant__ Call call)
{
    XCONV_SHARED(memory);
    unsigned block = blockIdx.x;
    const int begin = static_cast<int>(digit<unsigned>(block, call.parts) * THREADS);
    const int row = static_cast<int>(digit<unsigned>(block, call.strips)) * call.rows;
    const int left = call.rows_out - row;
    const int height = (left < call.rows ? left : call.rows) + TAPS_H - 1;
    const int above = row - call.rows_low;

    const int position = begin + static_cast<int>(threadIdx.x);
    const bool works = position < call.positions;
    const int lane = position % call.lanes, column = column_of(call, position);
    const int first = column * STRIDE_W - call.columns_low;
    const int end = begin + THREADS < call.positions ? begin + THREADS : call.positions;
    const int leftmost = column_of(call, begin), rightmost = column_of(call, end - 1);
    const bool inside = above >= 0 && above + height <= call.rows_in  // for all threads
        && leftmost * STRIDE_W >= call.columns_low && rightmost + RX <= call.columns_out
        && rightmost * STRIDE_W - call.columns_low + WINDOW <= call.columns_in;
    const Input* x = call.x + lane * call.x_lane;
    Value* y = call.y + lane * call.y_lane + column * (Y_COLUMN) + row * call.y_row;
#pragma unroll 1
    for (int n = 0; n < call.outers; ++n) {
        const long long i = digit<unsigned>(block, static_cast<unsigned>(call.outer[n].size));
        x += i * call.outer[n].x;
        y += i * call.outer[n].y;
    }
    if (inside) {
        if (!works) return;
        x += above * call.x_row + first * (X_COLUMN);
        go_down(call, Inside{x, call.x_row}, y, height);
        return;
    }
    int* const rows = reinterpret_cast<int*>(memory);
    int* const columns = rows + call.rows + TAPS_H - 1 + threadIdx.x;
#pragma unroll 1
    for (int r = threadIdx.x; r < height; r += THREADS)
        rows[r] = source_index(above + r, call.rows_in, call.rows_boundary);
#pragma unroll 1
    for (int c = 0; c < WINDOW; ++c)
        columns[c * THREADS] = source_index(first + c, call.columns_in, call.columns_boundary);
    __syncthreads();
    if (works) go_down(call, Edge{x, rows, columns, call.columns_out - column}, y, height);
}
