// A tensor of packed 4-bit codes with one scale.
#pragma once

#include "luq/core/format.h"
#include "luq/core/tensor.h"

namespace luq {

struct QTensor {
  Shape shape;                      // logical, row-major
  Format format = Format::float32;  // int4, uint4 or fp4
  float scale = 0;                  // value = scale * decode(code)
  Tensor codes;                     // uint8 (rows * packed_row_bytes(cols)); cols = shape[-1], rows = the rest

  bool defined() const { return codes.defined(); }
  int64_t cols() const { return shape[-1]; }
  int64_t rows() const { return cols() == 0 ? 0 : shape.numel() / cols(); }
};

}  // namespace luq
