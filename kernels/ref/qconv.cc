// The three 4-bit matmuls, scalar and normative: loops over the definition, every sum in int64.
//
// Cost: two decodes per multiplication. Nothing here is meant to be fast; it is what the vector kernels must equal.

#include "kernels/ref/as_float.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

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
  const int64_t oh = s.oh(), ow = s.ow(), cg = s.c_group(), og = s.o_group();
  const int64_t x_row = packed_row_bytes(s.c), w_row = packed_row_bytes(cg);
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < s.y_size(); ++index) {
    const int64_t o = index % s.o, ox = index / s.o % ow, oy = index / (s.o * ow) % oh, n = index / (s.o * ow * oh);
    const int64_t first_c = o / og * cg;
    int64_t sum = 0;
    for (int64_t ky = 0; ky < s.kh; ++ky) {
      const int64_t iy = oy * s.stride_h - s.pad_h + ky * s.dilation_h;
      if (iy < 0 || iy >= s.h) continue;
      for (int64_t kx = 0; kx < s.kw; ++kx) {
        const int64_t ix = ox * s.stride_w - s.pad_w + kx * s.dilation_w;
        if (ix < 0 || ix >= s.w) continue;
        const uint8_t* x = a.x + ((n * s.h + iy) * s.w + ix) * x_row;
        const uint8_t* w = a.w + ((o * s.kh + ky) * s.kw + kx) * w_row;
        for (int64_t c = 0; c < cg; ++c) {
          sum += decode(a.x_format, load_code(x, first_c + c)) * decode(a.w_format, load_code(w, c));
        }
      }
    }
    store(sum, a.scale, a.bias, o, index, a.y, false, a.sums);
  }
}

void ref_qconv_backward_data(const QConvBackwardDataArgs& a) {
  const ConvShape& s = a.shape;
  const int64_t oh = s.oh(), ow = s.ow(), cg = s.c_group(), og = s.o_group();
  const int64_t dy_row = packed_row_bytes(s.o), w_row = packed_row_bytes(cg);
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < s.x_size(); ++index) {
    const int64_t c = index % s.c, ix = index / s.c % s.w, iy = index / (s.c * s.w) % s.h,
                  n = index / (s.c * s.w * s.h);
    const int64_t first_o = c / cg * og;
    int64_t sum = 0;
    for (int64_t ky = 0; ky < s.kh; ++ky) {
      const int64_t y = iy + s.pad_h - ky * s.dilation_h;
      if (y < 0 || y % s.stride_h != 0 || y / s.stride_h >= oh) continue;
      for (int64_t kx = 0; kx < s.kw; ++kx) {
        const int64_t x = ix + s.pad_w - kx * s.dilation_w;
        if (x < 0 || x % s.stride_w != 0 || x / s.stride_w >= ow) continue;
        const uint8_t* dy = a.dy + ((n * oh + y / s.stride_h) * ow + x / s.stride_w) * dy_row;
        for (int64_t o = first_o; o < first_o + og; ++o) {
          const uint8_t* w = a.w + ((o * s.kh + ky) * s.kw + kx) * w_row;
          sum += decode(a.dy_format, load_code(dy, o)) * decode(a.w_format, load_code(w, c % cg));
        }
      }
    }
    store(sum, a.scale, nullptr, 0, index, a.dx, a.accumulate, a.sums);
  }
}

void ref_qconv_backward_weight(const QConvBackwardWeightArgs& a) {
  const ConvShape& s = a.shape;
  const int64_t oh = s.oh(), ow = s.ow(), cg = s.c_group(), og = s.o_group();
  const int64_t dy_row = packed_row_bytes(s.o), x_row = packed_row_bytes(s.c);
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < s.w_size(); ++index) {
    const int64_t c = index % cg, kx = index / cg % s.kw, ky = index / (cg * s.kw) % s.kh;
    const int64_t o = index / (cg * s.kw * s.kh), input_c = o / og * cg + c;
    int64_t sum = 0;
    for (int64_t row = 0; row < s.n * oh; ++row) {
      const int64_t n = row / oh, oy = row % oh;
      const int64_t iy = oy * s.stride_h - s.pad_h + ky * s.dilation_h;
      if (iy < 0 || iy >= s.h) continue;
      for (int64_t ox = 0; ox < ow; ++ox) {
        const int64_t ix = ox * s.stride_w - s.pad_w + kx * s.dilation_w;
        if (ix < 0 || ix >= s.w) continue;
        const uint8_t* dy = a.dy + (row * ow + ox) * dy_row;
        const uint8_t* x = a.x + ((n * s.h + iy) * s.w + ix) * x_row;
        sum += decode(a.dy_format, load_code(dy, o)) * decode(a.x_format, load_code(x, input_c));
      }
    }
    store(sum, a.scale, nullptr, 0, index, a.dw, false, a.sums);
  }
}

void add_ref_qconv(Kernels& table) {
  table.qconv_forward = {ref_qconv_forward, "ref"};
  table.qconv_backward_data = {ref_qconv_backward_data, "ref"};
  table.qconv_backward_weight = {ref_qconv_backward_weight, "ref"};
}

}  // namespace luq::kernels
