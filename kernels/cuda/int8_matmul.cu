// Codes unpacked to int8 in scratch memory, rows along the terms of the sums and filled with 0 up to multiples of 16 in
// both directions, because that is what every int8 product of a library takes; then its product; then results from its
// int32 sums. Bytes an operand's element: 0.5 read and 1 written; a result's: 4 read beside what our own kernels write.
#include "kernels/cuda/int8_matmul.h"

#include "kernels/cuda/qconv_common.h"

namespace luq::kernels::cuda {
namespace {

using qconv::kThreads;
using qconv::Layout;
using qconv::Sink;

constexpr int kCodes = 8;  // of a thread

int64_t padded(int64_t size) { return blocks_for(size, kInt8Unit) * kInt8Unit; }

// (rows, cols) of codes, and (to_rows, to_cols) of int8, to_cols a multiple of 16.
struct Unpacking {
  const uint8_t* codes;
  int64_t rows, cols, row_bytes;
  Values values;
  int64_t to_rows, to_cols;
  uint2* to;  // 8 values
};

__device__ inline uint32_t int8_at(const Unpacking& u, int64_t row, int64_t column) {
  if (row >= u.rows || column >= u.cols) return 0;
  return static_cast<uint32_t>(value_of(u.values, load_code(u.codes + row * u.row_bytes, column))) & 0xffu;
}

// Transposed: row i of the result is column i of the codes.
template <bool kTransposed>
__global__ void __launch_bounds__(kThreads) unpack(Unpacking u) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x, units = u.to_cols / kCodes;
  if (index >= u.to_rows * units) return;
  // Neighbouring threads read neighbouring codes.
  const int64_t row = kTransposed ? index % u.to_rows : index / units;
  const int64_t unit = kTransposed ? index / u.to_rows : index % units;
  uint32_t packed[2] = {};
  for (int i = 0; i < kCodes; ++i) {
    const int64_t column = unit * kCodes + i;
    packed[i / 4] |= (kTransposed ? int8_at(u, column, row) : int8_at(u, row, column)) << (i % 4 * 8);
  }
  u.to[row * units + unit] = make_uint2(packed[0], packed[1]);
}

// Results (rows, cols) from sums whose rows are `stride` apart; a thread has one.
__global__ void __launch_bounds__(kThreads) from_sums(Sink sink, const int* sums, int64_t cols, int64_t stride) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= sink.size) return;
  qconv::store(sink, index, qconv::place_of(sink, index), sums[index / cols * stride + index % cols]);
}

struct Side {
  const uint8_t* codes;
  const CodeTable& table;
  int64_t rows, cols;
  bool transposed;  // the sums run along the rows

  int64_t extent() const { return transposed ? cols : rows; }
  int64_t terms() const { return transposed ? rows : cols; }
};

void unpack_side(const char* name, const Side& s, int8_t* to) {
  const Unpacking u{.codes = s.codes,
                    .rows = s.rows,
                    .cols = s.cols,
                    .row_bytes = packed_row_bytes(s.cols),
                    .values = values_of(s.table),
                    .to_rows = padded(s.extent()),
                    .to_cols = padded(s.terms()),
                    .to = reinterpret_cast<uint2*>(to)};
  launch(name, s.transposed ? unpack<true> : unpack<false>,
         {.blocks = blocks_for(u.to_rows * (u.to_cols / kCodes), kThreads), .threads = kThreads}, u);
}

Kernels own;  // the table before add_int8_matmuls
Int8Product library;

// (rows of b, rows of a) to the sink. False where our own kernel has to do it.
bool run(const char* name, const ConvShape& s, const Side& a, const Side& b, const Sink& sink) {
  const int64_t terms = a.terms();
  if (!is_matmul(s) || sink.size == 0 || terms == 0 || terms > max_int32_terms(a.table, b.table)) return false;
  const int64_t m = padded(a.extent()), n = padded(b.extent()), k = padded(terms);
  const MatmulShape shape{
      .m = m, .n = n, .k = k, .transpose_a = true, .transpose_b = false, .lda = k, .ldb = k, .ldd = m};
  if (!library.takes(shape)) return false;
  Layout layout;
  const int64_t at_a = layout.add(m * k), at_b = layout.add(n * k), at_d = layout.add(m * n * 4);
  const int64_t workspace = layout.add(library.workspace_bytes);
  layout.allocate();
  auto* a_values = reinterpret_cast<int8_t*>(layout.at(at_a));
  auto* b_values = reinterpret_cast<int8_t*>(layout.at(at_b));
  auto* d = reinterpret_cast<int*>(layout.at(at_d));
  unpack_side(name, a, a_values);
  unpack_side(name, b, b_values);
  library.multiply(shape, a_values, b_values, d, layout.at(workspace));
  launch(name, from_sums, {.blocks = blocks_for(sink.size, kThreads), .threads = kThreads}, sink, d, a.extent(), m);
  return true;
}

int64_t pixels(const ConvShape& s) { return s.n * s.h * s.w; }

void forward(const QConvForwardArgs& x) {
  const ConvShape& s = x.shape;
  const Side w{x.w, x.w_table, s.o, s.c, false}, in{x.x, x.x_table, pixels(s), s.c, false};
  if (!run("qconv_forward, int8", s, w, in, qconv::sink_of(x))) own.qconv_forward.run(x);
}

void backward_data(const QConvBackwardDataArgs& x) {
  const ConvShape& s = x.shape;
  const Side w{x.w, x.w_table, s.o, s.c, true}, dy{x.dy, x.dy_table, pixels(s), s.o, false};
  if (!run("qconv_backward_data, int8", s, w, dy, qconv::sink_of(x))) own.qconv_backward_data.run(x);
}

void backward_weight(const QConvBackwardWeightArgs& x) {
  const ConvShape& s = x.shape;
  const Side in{x.x, x.x_table, pixels(s), s.c, true}, dy{x.dy, x.dy_table, pixels(s), s.o, true};
  if (!run("qconv_backward_weight, int8", s, in, dy, qconv::sink_of(x))) own.qconv_backward_weight.run(x);
}

}  // namespace

void add_int8_matmuls(Kernels& table, const Int8Product& product) {
  own = table;
  library = product;
  table.qconv_forward = {forward, product.name};
  table.qconv_backward_data = {backward_data, product.name};
  table.qconv_backward_weight = {backward_weight, product.name};
  table.qconv_forward_moments = {};
}

}  // namespace luq::kernels::cuda
