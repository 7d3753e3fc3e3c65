// What every implementation of `resize` shares: the filter of each direction, made once for a call.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace luq::kernels {

constexpr int kResizeBits = 22;  // of a coefficient behind the point

// Output i of a direction is the sum over t < taps of coefficients[i * taps + t] times input first[i] + t, which lies
// inside the input for the taps whose coefficient is not 0.
struct ResizeFilter {
  int64_t taps = 0;
  const int32_t* first = nullptr;         // (outputs)
  const int32_t* count = nullptr;         // (outputs) taps inside the input
  const int32_t* coefficients = nullptr;  // (outputs, taps)
};

// Both in scratch of the calling thread that the next call reuses.
ResizeFilter resize_filter(int64_t inputs, int64_t outputs, bool vertical);
// (rows, row_bytes) for what the first pass leaves, with 64 bytes behind it that may be written.
uint8_t* resize_buffer(int64_t rows, int64_t row_bytes);

}  // namespace luq::kernels
