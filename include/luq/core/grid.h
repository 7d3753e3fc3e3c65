// The values that 4-bit codes stand for, and how others are rounded to them: plain data, for the host and a device.
#pragma once

#include <cstdint>

#include "luq/core/host_device.h"

namespace luq {

enum class Rounding : uint8_t { nearest, stochastic };
constexpr const char* to_string(Rounding rounding) { return rounding == Rounding::nearest ? "nearest" : "stochastic"; }

constexpr int kMaxCodeValue = 64;      // largest magnitude in a CodeTable
constexpr int kMaxGridMagnitudes = 7;  // of a grid with signs: a code is a sign and 3 bits

// The integers that the 16 codes of an operand of a matmul stand for: value[0] is 0, and none is beyond kMaxCodeValue.
struct CodeTable {
  int8_t value[16] = {};
  friend constexpr bool operator==(const CodeTable& a, const CodeTable& b) {
    for (int code = 0; code < 16; ++code) {
      if (a.value[code] != b.value[code]) return false;
    }
    return true;
  }
  // The largest magnitude of any code.
  LUQ_HOST_DEVICE constexpr int magnitude() const {
    int most = 0;
    for (int8_t v : value) most = v > most ? v : -v > most ? -v : most;
    return most;
  }
};

enum class GridKind : uint8_t {
  uniform,      // every integer low..high; the code is the integer's lowest 4 bits
  powers_of_2,  // 0 and ±1, ±2, ±4, ...
  powers_of_4,  // 0 and ±1, ±4, ±16, ...
  levels,       // 0 and ± any rising list of magnitudes
};

// The values that an encoder rounds to, in units of the scale. In all kinds but uniform, code i in 1..magnitudes stands
// for level[i], code 8 + i for -level[i], and code 0 for 0.
struct Grid {
  GridKind kind = GridKind::uniform;
  int low = 0, high = 0;  // uniform; low is negative, or 0 for values that cannot be
  int magnitudes = 0;     // the others; at most kMaxGridMagnitudes
  float level[kMaxGridMagnitudes + 1] = {};

  LUQ_HOST_DEVICE constexpr float highest() const {
    return kind == GridKind::uniform ? static_cast<float>(high) : level[magnitudes];
  }
};

// Grids by what their kind says; `magnitudes` is 1 to 7.
constexpr Grid uniform_grid(int low, int high) {
  Grid grid;
  grid.low = low;
  grid.high = high;
  return grid;
}
constexpr Grid powers_grid(GridKind kind, int magnitudes) {
  Grid grid;
  grid.kind = kind;
  grid.magnitudes = magnitudes;
  float level = 1;
  for (int i = 1; i <= magnitudes && i <= kMaxGridMagnitudes; ++i) {
    grid.level[i] = level;
    level *= kind == GridKind::powers_of_4 ? 4.0f : 2.0f;
  }
  return grid;
}
template <int kCount>
constexpr Grid levels_grid(const float (&levels)[kCount]) {
  Grid grid;
  grid.kind = GridKind::levels;
  grid.magnitudes = kCount;
  for (int i = 0; i < kCount && i < kMaxGridMagnitudes; ++i) grid.level[i + 1] = levels[i];
  return grid;
}

// Bytes of one row of `cols` packed codes: two codes a byte, low nibble first, a row starts on a byte.
LUQ_HOST_DEVICE constexpr int64_t packed_row_bytes(int64_t cols) { return (cols + 1) / 2; }

}  // namespace luq
