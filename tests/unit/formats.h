// Formats that no program has but these tests, as a user would add them.
#pragma once

#include "luq/core/format.h"

namespace luq::test {

// Integers of 3 bits with a twin of 0..7 for what cannot be negative.
inline Format int3() {
  static const Format twin = register_format({"test_uint3", uniform_grid(0, 7), 1, {{unsigned_integers()}}});
  static const Format format =
      register_format({"test_int3", uniform_grid(-3, 3), 1, {{signed_integers()}}, false, &twin.row()});
  return format;
}

// 0, ±1, ±3, ±9, ±27.
inline Format powers_of_3() {
  static const Grid grid = levels_grid({1, 3, 9, 27});
  static const Format format = register_format({"test_powers_of_3", grid, 1, {{signed_magnitudes(grid)}}});
  return format;
}

// 0, ±1, ±4, ..., ±4096 in two planes: {1, 4, 16, 64} and 64 times {4, 16, 64}.
inline Format radix4() {
  static const Grid grid = powers_grid(GridKind::powers_of_4, 7);
  static const Format format =
      register_format({"test_radix4", grid, 2, {{signed_magnitudes(grid)}, {signed_magnitudes(grid, true), 64}}});
  return format;
}

}  // namespace luq::test
