// The number formats an operand of a matmul may have, and the scaling methods and roundings that lead to them.
#pragma once

#include <cstdint>

#include "luq/core/host_device.h"

namespace luq {

// Every 4-bit format decodes exactly to int8 (docs/numerics.md). Codes are 0..15, zero is always code 0.
enum class Format : uint8_t {
  float32,  // not quantised
  int4,     // two's complement, values -7..7; code 8 (-8) is never produced
  uint4,    // 0..15, for tensors that cannot be negative
  fp4,      // sign in bit 3, exponent e in bits 2..0: e = 0 is zero, else 2^(e-1), i.e. 1..64; code 8 (-0) is never
            // produced
};

enum class ScaleMethod : uint8_t {
  sawb,          // clip = c1 sqrt(E[x^2]) - c2 E[|x|], 12.035 and 12.03; step clip/7 or clip/15
  sawb_nonzero,  // unsigned data: constants refitted on the non-zero part, step clip/15; signed data: as sawb
  reference,     // unsigned data: step 2 clip/15, as in the paper's circulated code; signed data: as sawb
  max,           // clip = max|x|; for fp4: alpha = max|x| / 2^6
};

enum class Rounding : uint8_t { nearest, stochastic };

LUQ_HOST_DEVICE constexpr bool is_4bit(Format format) { return format != Format::float32; }
constexpr const char* to_string(Format format) {
  constexpr const char* names[] = {"float32", "int4", "uint4", "fp4"};
  return names[static_cast<int>(format)];
}
constexpr const char* to_string(ScaleMethod method) {
  constexpr const char* names[] = {"sawb", "sawb_nonzero", "reference", "max"};
  return names[static_cast<int>(method)];
}
constexpr const char* to_string(Rounding rounding) { return rounding == Rounding::nearest ? "nearest" : "stochastic"; }

// Bytes of one row of `cols` packed codes: two codes a byte, low nibble first, a row starts on a byte.
LUQ_HOST_DEVICE constexpr int64_t packed_row_bytes(int64_t cols) { return (cols + 1) / 2; }

}  // namespace luq
