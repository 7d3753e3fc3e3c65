// What quantisers need to know of a tensor.
#pragma once

#include <cstdint>

namespace luq {

// The order of the sums is fixed, see kernels/numerics.h.
struct Stats {
  double sum_abs = 0;
  double sum_sq = 0;
  int64_t count = 0;
  int64_t nonzero = 0;
  uint32_t abs_bits_max = 0;  // the largest bit pattern of |x|: a NaN or infinity anywhere makes it >= 0x7f800000
};

}  // namespace luq
