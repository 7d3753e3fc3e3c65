// A tensor of packed 4-bit codes: a sum of planes, each with a scale.
#pragma once

#include <vector>

#include "luq/core/format.h"
#include "luq/core/tensor.h"

namespace luq {

// A part of a tensor: element (..., i, ...) is scale * table.value[code], or (scale * scales[i]) * table.value[code]
// where there are scales.
struct Plane {
  // The dimension of the tensor for each index of which `scales` has an element.
  enum class Axis : uint8_t { first, last };

  Tensor codes;  // uint8 (rows * packed_row_bytes(cols)); planes of one encoding share it
  CodeTable table;
  float scale = 0;
  Tensor scales = {};  // float32 (extent of the axis), or undefined
  Axis axis = Axis::first;
};

struct QTensor {
  Shape shape;                      // logical, row-major
  Format format = Format::float32;  // what it was encoded to; a quantised one where it is defined
  float scale = 0;                  // of the format's grid: running averages and files take this one
  std::vector<Plane> planes;        // a value is the sum of theirs; a tensor has one or more

  bool defined() const { return !planes.empty(); }
  int64_t cols() const { return shape[-1]; }
  int64_t rows() const { return cols() == 0 ? 0 : shape.numel() / cols(); }
  // True when the planes are those of the format, with the same codes and one scale: not a sum of several encodings.
  bool is_one_encoding() const;
};

}  // namespace luq
