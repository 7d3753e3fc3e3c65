// bfloat16: the upper half of a float32.
#pragma once

#include <cstdint>
#include <cstring>

#include "luq/core/host_device.h"

namespace luq {

struct BFloat16 {
  uint16_t bits;
};

LUQ_HOST_DEVICE inline float to_float(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// To nearest, ties to even; beyond the largest to infinity; a NaN stays one.
LUQ_HOST_DEVICE inline BFloat16 to_bfloat16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

}  // namespace luq
