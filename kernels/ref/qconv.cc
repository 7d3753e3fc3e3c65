// The three 4-bit matmuls, scalar and normative: every product of the definition (conv_terms.h), every sum in int64.
//
// Cost: two decodes per multiplication. Nothing here is meant to be fast; it is what the vector kernels must equal.

#include "kernels/conv_terms.h"
#include "kernels/ref/as_float.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

// Packed codes of rows of `cols`.
struct Codes {
  const uint8_t* packed;
  int64_t row_bytes;
  const CodeTable& table;

  Codes(const uint8_t* packed, int64_t cols, const CodeTable& table)
      : packed(packed), row_bytes(packed_row_bytes(cols)), table(table) {}
  int64_t at(int64_t row, int64_t col) const { return decode(table, load_code(packed + row * row_bytes, col)); }
};

void store(int64_t sum, float scale, const float* bias, int64_t channel, int64_t index, Floats y, bool accumulate,
           int64_t* sums) {
  if (sums != nullptr) {
    sums[index] = sum;
    return;
  }
  float value = static_cast<float>(sum) * scale;
  if (bias != nullptr) value += bias[channel];
  if (accumulate) value += ref::load(y, index);
  ref::store(y, index, value);
}

}  // namespace

void ref_qconv_forward(const QConvForwardArgs& a) {
  const ConvShape& s = a.shape;
  const Codes x(a.x, s.c, a.x_table), w(a.w, s.c_group(), a.w_table);
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < s.y_size(); ++index) {
    int64_t sum = 0;
    for_forward_terms(s, index, [&](int64_t pixel, int64_t c, int64_t w_row, int64_t w_c) {
      sum += x.at(pixel, c) * w.at(w_row, w_c);
    });
    const int64_t o = index % s.o;
    store(sum, result_scale(a.scale, a.scales, o), a.bias, o, index, a.y, a.accumulate, a.sums);
  }
}

void ref_qconv_backward_data(const QConvBackwardDataArgs& a) {
  const ConvShape& s = a.shape;
  const Codes dy(a.dy, s.o, a.dy_table), w(a.w, s.c_group(), a.w_table);
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < s.x_size(); ++index) {
    int64_t sum = 0;
    for_backward_data_terms(s, index, [&](int64_t pixel, int64_t o, int64_t w_row, int64_t w_c) {
      sum += dy.at(pixel, o) * w.at(w_row, w_c);
    });
    const int64_t n = index / (s.h * s.w * s.c);
    store(sum, result_scale(a.scale, a.scales, n), nullptr, 0, index, a.dx, a.accumulate, a.sums);
  }
}

void ref_qconv_backward_weight(const QConvBackwardWeightArgs& a) {
  const ConvShape& s = a.shape;
  const Codes dy(a.dy, s.o, a.dy_table), x(a.x, s.c, a.x_table);
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < s.w_size(); ++index) {
    int64_t sum = 0;
    for_backward_weight_terms(s, index, [&](int64_t y_pixel, int64_t o, int64_t x_pixel, int64_t c) {
      sum += dy.at(y_pixel, o) * x.at(x_pixel, c);
    });
    const int64_t o = index / (s.kh * s.kw * s.c_group());
    store(sum, result_scale(a.scale, a.scales, o), nullptr, 0, index, a.dw, a.accumulate, a.sums);
  }
}

void add_ref_qconv(Kernels& table) {
  table.qconv_forward = {ref_qconv_forward, "ref"};
  table.qconv_backward_data = {ref_qconv_backward_data, "ref"};
  table.qconv_backward_weight = {ref_qconv_backward_weight, "ref"};
}

}  // namespace luq::kernels
