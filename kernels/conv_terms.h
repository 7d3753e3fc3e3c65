// Which products a result of a convolution adds: the index arithmetic of the three matmuls, once, for the scalar
// reference in integers and floats and for the device's kernels that have a thread for each result.
//
// A result is given by its index in the array of results. Its terms come in a fixed order, as
//   term(row of the first operand, column there, row of the second operand, column there),
// where x has a row of c columns for each pixel, dy one of o, and w one of c/groups for each (output, ky, kx).
#pragma once

#include <cstdint>

#include "luq/core/conv_shape.h"

namespace luq::kernels {

// y (n, oh, ow, o): x times w, by taps, then channels.
template <typename Term>
LUQ_HOST_DEVICE inline void for_forward_terms(const ConvShape& s, int64_t index, Term term) {
  const int64_t oh = s.oh(), ow = s.ow(), cg = s.c_group();
  const int64_t o = index % s.o, ox = index / s.o % ow, oy = index / (s.o * ow) % oh, n = index / (s.o * ow * oh);
  const int64_t first_c = o / s.o_group() * cg;
  for (int64_t ky = 0; ky < s.kh; ++ky) {
    const int64_t iy = oy * s.stride_h - s.pad_h + ky * s.dilation_h;
    if (iy < 0 || iy >= s.h) continue;
    for (int64_t kx = 0; kx < s.kw; ++kx) {
      const int64_t ix = ox * s.stride_w - s.pad_w + kx * s.dilation_w;
      if (ix < 0 || ix >= s.w) continue;
      const int64_t pixel = (n * s.h + iy) * s.w + ix, w_row = (o * s.kh + ky) * s.kw + kx;
      for (int64_t c = 0; c < cg; ++c) term(pixel, first_c + c, w_row, c);
    }
  }
}

// dx (n, h, w, c): dy times w, by taps, then outputs.
template <typename Term>
LUQ_HOST_DEVICE inline void for_backward_data_terms(const ConvShape& s, int64_t index, Term term) {
  const int64_t oh = s.oh(), ow = s.ow(), cg = s.c_group(), og = s.o_group();
  const int64_t c = index % s.c, ix = index / s.c % s.w, iy = index / (s.c * s.w) % s.h, n = index / (s.c * s.w * s.h);
  const int64_t first_o = c / cg * og;
  for (int64_t ky = 0; ky < s.kh; ++ky) {
    const int64_t y = iy + s.pad_h - ky * s.dilation_h;
    if (y < 0 || y % s.stride_h != 0 || y / s.stride_h >= oh) continue;
    for (int64_t kx = 0; kx < s.kw; ++kx) {
      const int64_t x = ix + s.pad_w - kx * s.dilation_w;
      if (x < 0 || x % s.stride_w != 0 || x / s.stride_w >= ow) continue;
      const int64_t pixel = (n * oh + y / s.stride_h) * ow + x / s.stride_w;
      for (int64_t o = first_o; o < first_o + og; ++o) term(pixel, o, (o * s.kh + ky) * s.kw + kx, c % cg);
    }
  }
}

// dw (o, kh, kw, c/groups): dy times x, by pixels of dy.
template <typename Term>
LUQ_HOST_DEVICE inline void for_backward_weight_terms(const ConvShape& s, int64_t index, Term term) {
  const int64_t oh = s.oh(), ow = s.ow(), cg = s.c_group();
  const int64_t c = index % cg, kx = index / cg % s.kw, ky = index / (cg * s.kw) % s.kh, o = index / (cg * s.kw * s.kh);
  const int64_t input_c = o / s.o_group() * cg + c;
  for (int64_t row = 0; row < s.n * oh; ++row) {
    const int64_t n = row / oh, iy = row % oh * s.stride_h - s.pad_h + ky * s.dilation_h;
    if (iy < 0 || iy >= s.h) continue;
    for (int64_t ox = 0; ox < ow; ++ox) {
      const int64_t ix = ox * s.stride_w - s.pad_w + kx * s.dilation_w;
      if (ix < 0 || ix >= s.w) continue;
      term(row * ow + ox, o, (n * s.h + iy) * s.w + ix, input_c);
    }
  }
}

}  // namespace luq::kernels
