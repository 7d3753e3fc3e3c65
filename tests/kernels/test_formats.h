// Formats that are built in tests alone: other values than those of the library's three, and other numbers of them.
#pragma once

#include <vector>

#include "luq/core/format.h"

namespace luq::test {

constexpr CodeTable kInt4Table = Format::int4.table(), kUint4Table = Format::uint4.table(),
                    kFp4Table = Format::fp4.table();

constexpr Grid kLevels3Grid = levels_grid({1, 3, 9, 27}), kOneLevelGrid = levels_grid({1}),
               kOddLevelsGrid = levels_grid({1, 5, 13, 27, 43, 61, 64}),
               kThreePowersOf2Grid = powers_grid(GridKind::powers_of_2, 3),
               kFourPowersOf4Grid = powers_grid(GridKind::powers_of_4, 4),
               kSevenPowersOf4Grid = powers_grid(GridKind::powers_of_4, 7);

inline constexpr FormatRow kTestFormats[] = {
    kInt4Row,
    kUint4Row,
    kFp4Row,
    {"levels 1, 3, 9, 27", kLevels3Grid, 1, {{signed_magnitudes(kLevels3Grid)}}},
    {"one level", kOneLevelGrid, 1, {{signed_magnitudes(kOneLevelGrid)}}},
    {"seven odd levels up to 64", kOddLevelsGrid, 1, {{signed_magnitudes(kOddLevelsGrid)}}},
    {"integers of 3 bits", uniform_grid(-3, 3), 1, {{signed_integers()}}},
    {"unsigned integers of 2 bits", uniform_grid(0, 3), 1, {{unsigned_integers()}}},
    {"3 powers of 2", kThreePowersOf2Grid, 1, {{signed_magnitudes(kThreePowersOf2Grid)}}},
    {"4 powers of 4", kFourPowersOf4Grid, 1, {{signed_magnitudes(kFourPowersOf4Grid)}}},
    {"7 powers of 4, two planes",
     kSevenPowersOf4Grid,
     2,
     {{signed_magnitudes(kSevenPowersOf4Grid)}, {signed_magnitudes(kSevenPowersOf4Grid, true), kMaxCodeValue}}},
};

constexpr CodeTable kLevels3Table = signed_magnitudes(kLevels3Grid);
// These are any values up to the largest, odd ones too, without a bit for the sign and without symmetry.
constexpr CodeTable kWideTable{{0, 64, -64, 63, -61, 1, -1, 27, -9, 33, -47, 5, 64, -64, 2, -64}};
// The first lie on one side of 0, the second are nothing but 0.
constexpr CodeTable kNegativeTable{{0, -1, -64, -3, -9, -27, -63, -2, -4, -50, -33, -17, -7, -11, -60, -5}};
constexpr CodeTable kZeroTable{};

// Gives the tables of these formats, of all their planes, and the three above.
inline const std::vector<CodeTable>& test_tables() {
  static const std::vector<CodeTable> tables = [] {
    std::vector<CodeTable> all{kWideTable, kNegativeTable, kZeroTable};
    for (const FormatRow& format : kTestFormats) {
      for (int plane = 0; plane < format.planes; ++plane) all.push_back(format.plane[plane].table);
    }
    return all;
  }();
  return tables;
}

}  // namespace luq::test
