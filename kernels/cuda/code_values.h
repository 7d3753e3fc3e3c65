// The values of an operand's codes in a thread's registers or a kernel's parameters.
#pragma once

#include <bit>
#include <cstdint>

#include "luq/core/grid.h"

namespace luq::kernels::cuda {

// A CodeTable in words: int8, codes 0..7 in `low`, 8..15 in `high`.
struct Values {
  uint32_t low[2], high[2];
};

inline Values values_of(const CodeTable& table) { return std::bit_cast<Values>(table); }

LUQ_HOST_DEVICE inline int value_of(const Values& values, uint32_t code) {
  const uint32_t word =
      code < 8 ? (code < 4 ? values.low[0] : values.low[1]) : (code < 12 ? values.high[0] : values.high[1]);
  return static_cast<int8_t>(word >> (code % 4 * 8));
}

}  // namespace luq::kernels::cuda
