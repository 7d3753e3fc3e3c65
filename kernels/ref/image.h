// Every implementation of `resize` shares the filter of each direction, which is made once for a call.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace luq::kernels {

constexpr int kResizeBits = 22;  // of a coefficient behind the point

// A direction of a resize: `outputs` pixels from y_begin on of the `to` that `from` pixels become.
struct ResizeAxis {
  int64_t from = 0, to = 0, x_begin = 0, y_begin = 0, outputs = 0;
  bool keeps() const { return from == to; }  // its pixels are not filtered
  int64_t shift() const { return y_begin - x_begin; }
  friend bool operator==(const ResizeAxis&, const ResizeAxis&) = default;
};
ResizeAxis resize_rows_axis(const ResizeArgs& a);
ResizeAxis resize_columns_axis(const ResizeArgs& a);

// Output i of a direction is the sum over t < taps of coefficients[i * taps + t] times pixel first[i] + t of x, which
// lies inside the image for the taps whose coefficient is not 0.
struct ResizeFilter {
  int64_t taps = 0;
  const int32_t* first = nullptr;         // (outputs)
  const int32_t* count = nullptr;         // (outputs) taps inside the input
  const int32_t* coefficients = nullptr;  // (outputs, taps)
};

// Both in scratch of the calling thread that the next call reuses.
ResizeFilter resize_filter(const ResizeAxis& axis, bool vertical);
// (rows, row_bytes) for what the first pass leaves, with 64 bytes behind it that may be written.
uint8_t* resize_buffer(int64_t rows, int64_t row_bytes);

}  // namespace luq::kernels
