// cuDNN and cublasLt are told this of a convolution: extents, strides, leading dimensions and transposes. They are
// plain numbers, so that a machine without a device can check them.
#pragma once

#include <array>
#include <cstdint>

#include "luq/core/conv_shape.h"

namespace luq::kernels::cuda {

enum class ConvPass { forward, backward_data, backward_weight };

// A convolution that is one matrix product: 1 x 1, of every pixel and all channels.
inline bool is_matmul(const ConvShape& s) {
  return s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 && s.pad_w == 0 && s.groups == 1;
}

// D (m x n) = op(A) (m x k) op(B) (k x n), by columns as BLAS has them; op transposes where it says so. ld is the
// distance of columns in memory. A row-major matrix is its transpose by columns, which is why the weights come first:
//   forward           y^T (o x pixels)  = w (o x c)    x^T (c x pixels)
//   backward data     dx^T (c x pixels) = w^T (c x o)  dy^T (o x pixels)
//   backward weight   dw^T (c x o)      = x^T (c x pixels)  dy (pixels x o)
struct MatmulShape {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  int64_t lda, ldb, ldd;

  // As they lie in memory, by columns.
  int64_t rows_a() const { return transpose_a ? k : m; }
  int64_t columns_a() const { return transpose_a ? m : k; }
  int64_t rows_b() const { return transpose_b ? n : k; }
  int64_t columns_b() const { return transpose_b ? k : n; }
};

inline MatmulShape matmul_shape(ConvPass pass, const ConvShape& s) {
  const int64_t pixels = s.n * s.h * s.w;
  switch (pass) {
    case ConvPass::forward:
      return {s.o, pixels, s.c, true, false, s.c, s.c, s.o};
    case ConvPass::backward_data:
      return {s.c, pixels, s.o, false, false, s.c, s.o, s.c};
    default:
      return {s.c, s.o, pixels, false, true, s.c, s.o, s.c};
  }
}

// In cuDNN's order (n, c, h, w) or (o, c, kh, kw), whatever the order in memory; strides in elements.
struct TensorLayout {
  std::array<int64_t, 4> extents, strides;
};

// The layout of a dense (a, h, w, c) in memory.
inline TensorLayout channels_last(int64_t a, int64_t c, int64_t h, int64_t w) {
  return {{a, c, h, w}, {h * w * c, 1, w * c, c}};
}

// cuDNN finds the number of groups by itself: channels of x for each channel of w.
struct ConvLayout {
  TensorLayout x, w, y;
  std::array<int64_t, 2> strides, pads, dilations;  // of rows, of columns; pads before and after
};

inline ConvLayout conv_layout(const ConvShape& s) {
  return {channels_last(s.n, s.c, s.h, s.w),
          channels_last(s.o, s.c_group(), s.kh, s.kw),
          channels_last(s.n, s.o, s.oh(), s.ow()),
          {s.stride_h, s.stride_w},
          {s.pad_h, s.pad_w},
          {s.dilation_h, s.dilation_w}};
}

}  // namespace luq::kernels::cuda
