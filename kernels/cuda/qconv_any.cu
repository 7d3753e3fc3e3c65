// The three 4-bit matmuls with a thread for each result, for shapes with nothing to add or with indexes beyond int32.
#include "kernels/conv_terms.h"
#include "kernels/cuda/qconv_common.h"

namespace luq::kernels::cuda::qconv {
namespace {

// An operand: packed codes of rows.
struct Codes {
  const uint8_t* packed;
  int64_t row_bytes;
  Values values;

  Codes(const uint8_t* packed, int64_t columns, const CodeTable& table)
      : packed(packed), row_bytes(packed_row_bytes(columns)), values(values_of(table)) {}
  LUQ_HOST_DEVICE int at(int64_t row, int64_t column) const {
    return value_of(values, load_code(packed + row * row_bytes, column));
  }
};

// The sum of a result's products; conv_terms.h calls it for each.
struct AddProduct {
  const Codes &a, &b;
  int64_t& sum;

  LUQ_HOST_DEVICE void operator()(int64_t a_row, int64_t a_column, int64_t b_row, int64_t b_column) const {
    sum += a.at(a_row, a_column) * b.at(b_row, b_column);
  }
};

enum class Pass { forward, backward_data, backward_weight };

template <Pass kPass>
__global__ void __launch_bounds__(kThreads) product_any(ConvShape s, Codes a, Codes b, Sink sink) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= sink.size) return;
  int64_t sum = 0;
  const AddProduct add{a, b, sum};
  if constexpr (kPass == Pass::forward) for_forward_terms(s, index, add);
  if constexpr (kPass == Pass::backward_data) for_backward_data_terms(s, index, add);
  if constexpr (kPass == Pass::backward_weight) for_backward_weight_terms(s, index, add);
  store(sink, index, place_of(sink, index), sum);
}

template <Pass kPass>
void run(const char* name, const ConvShape& s, const Codes& a, const Codes& b, const Sink& sink) {
  launch(name, product_any<kPass>, {.blocks = blocks_for(sink.size, kThreads), .threads = kThreads}, s, a, b, sink);
}

}  // namespace

void run_any(const QConvForwardArgs& a, const Sink& sink) {
  const ConvShape& s = a.shape;
  run<Pass::forward>("qconv_forward", s, {a.x, s.c, a.x_table}, {a.w, s.c_group(), a.w_table}, sink);
}

void run_any(const QConvBackwardDataArgs& a, const Sink& sink) {
  const ConvShape& s = a.shape;
  run<Pass::backward_data>("qconv_backward_data", s, {a.dy, s.o, a.dy_table}, {a.w, s.c_group(), a.w_table}, sink);
}

void run_any(const QConvBackwardWeightArgs& a, const Sink& sink) {
  const ConvShape& s = a.shape;
  run<Pass::backward_weight>("qconv_backward_weight", s, {a.dy, s.o, a.dy_table}, {a.x, s.c, a.x_table}, sink);
}

}  // namespace luq::kernels::cuda::qconv
