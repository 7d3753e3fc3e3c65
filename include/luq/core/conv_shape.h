// The geometry of a 2-d convolution. A linear layer is one with h = w = kh = kw = 1 and n = rows.
#pragma once

#include <compare>
#include <cstdint>

#include "luq/core/host_device.h"

namespace luq {

// x: (n, h, w, c), weight: (o, kh, kw, c / groups), y: (n, oh, ow, o); all row-major.
struct ConvShape {
  int64_t n = 1, h = 1, w = 1, c = 1;
  int64_t o = 1, kh = 1, kw = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_h = 0, pad_w = 0;
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t groups = 1;

  LUQ_HOST_DEVICE constexpr int64_t oh() const { return (h + 2 * pad_h - dilation_h * (kh - 1) - 1) / stride_h + 1; }
  LUQ_HOST_DEVICE constexpr int64_t ow() const { return (w + 2 * pad_w - dilation_w * (kw - 1) - 1) / stride_w + 1; }
  LUQ_HOST_DEVICE constexpr int64_t c_group() const { return c / groups; }
  LUQ_HOST_DEVICE constexpr int64_t o_group() const { return o / groups; }
  constexpr int64_t x_size() const { return n * h * w * c; }
  constexpr int64_t w_size() const { return o * kh * kw * c_group(); }
  constexpr int64_t y_size() const { return n * oh() * ow() * o; }
  // Multiply-accumulates of one of the three matmuls; padding counted as if it were data.
  constexpr int64_t macs() const { return y_size() * kh * kw * c_group(); }
  friend auto operator<=>(const ConvShape&, const ConvShape&) = default;
};

}  // namespace luq
