// The number formats that an operand of a matmul may have: rows of a table, each with the grid that an encoder rounds
// to and with what its codes stand for. Kernels get grids and tables, and know no format by name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "luq/core/grid.h"

namespace luq {

enum class ScaleMethod : uint8_t {
  sawb,          // clip = c1 sqrt(E[x^2]) - c2 E[|x|], 12.035 and 12.03; step clip/7 or clip/15
  sawb_nonzero,  // unsigned data: constants refitted on the non-zero part, step clip/15; signed data: as sawb
  reference,     // unsigned data: step 2 clip/15, as in the paper's circulated code; signed data: as sawb
  max,           // the grid's highest value stands for max|x|: int4 max|x| / 7, fp4 alpha = max|x| / 2^6
};
constexpr const char* to_string(ScaleMethod method) {
  constexpr const char* names[] = {"sawb", "sawb_nonzero", "reference", "max"};
  return names[static_cast<int>(method)];
}

// A part of an operand: its codes stand for factor * table.value[code], in units of the scale.
struct FormatPlane {
  CodeTable table;
  float factor = 1;
};

constexpr int kMaxFormatPlanes = 2;

// A row of the table of formats. A format with values beyond kMaxCodeValue is the sum of two planes, which have the
// same codes and other tables.
struct FormatRow {
  const char* name;
  Grid grid;
  int planes;
  FormatPlane plane[kMaxFormatPlanes];
  bool sawb = false;  // has the methods beside max; their constants are those of 15 or 16 integers
  const FormatRow* non_negative = nullptr;  // in its place, where a tensor is known to have no negative values

  // The value that a code stands for, in units of the scale: the sum of the planes.
  constexpr double value(int code) const {
    double sum = 0;
    for (int i = 0; i < planes; ++i) sum += static_cast<double>(plane[i].factor) * plane[i].table.value[code & 15];
    return sum;
  }
};

// The tables that go with the grids: integers in two's complement (which also the grids of 2 and 3 bits have) or
// without a sign, and signs with magnitudes.
constexpr CodeTable signed_integers() {
  CodeTable table;
  for (int code = 0; code < 16; ++code) table.value[code] = static_cast<int8_t>((code ^ 8) - 8);
  return table;
}
constexpr CodeTable unsigned_integers() {
  CodeTable table;
  for (int code = 0; code < 16; ++code) table.value[code] = static_cast<int8_t>(code);
  return table;
}
// Takes those magnitudes that are at most kMaxCodeValue, or, with `beyond`, the others in units of it.
constexpr CodeTable signed_magnitudes(const Grid& grid, bool beyond = false) {
  CodeTable table;
  for (int i = 1; i <= grid.magnitudes && i <= kMaxGridMagnitudes; ++i) {
    const float unit = beyond ? kMaxCodeValue : 1.0f, magnitude = grid.level[i] / unit;
    if ((grid.level[i] > kMaxCodeValue) != beyond || !(magnitude > 0 && magnitude <= kMaxCodeValue)) continue;
    table.value[i] = static_cast<int8_t>(magnitude);
    table.value[8 + i] = static_cast<int8_t>(-magnitude);
  }
  return table;
}

inline constexpr FormatRow kUint4Row{"uint4", uniform_grid(0, 15), 1, {{unsigned_integers()}}, true};
inline constexpr FormatRow kInt4Row{"int4", uniform_grid(-7, 7), 1, {{signed_integers()}}, true, &kUint4Row};
inline constexpr FormatRow kFp4Row{
    "fp4", powers_grid(GridKind::powers_of_2, 7), 1, {{signed_magnitudes(powers_grid(GridKind::powers_of_2, 7))}}};

// A format by its row; one without a row is float32: not quantised.
class Format {
 public:
  constexpr Format() = default;
  explicit constexpr Format(const FormatRow* row) : row_(row) {}

  static const Format float32;
  static const Format int4;   // -7..7 in two's complement; code 8 (-8) is never produced
  static const Format uint4;  // 0..15, for tensors that cannot be negative
  static const Format fp4;    // sign in bit 3, exponent e in bits 2..0: 0, or 2^(e-1), i.e. 1..64; code 8 (-0) is never
                              // produced

  constexpr bool quantized() const { return row_ != nullptr; }
  // These are for quantised formats.
  constexpr const FormatRow& row() const { return *row_; }
  constexpr const Grid& grid() const { return row_->grid; }
  constexpr const CodeTable& table() const { return row_->plane[0].table; }  // of the only plane, or the first
  constexpr bool is_signed() const { return row_->grid.kind != GridKind::uniform || row_->grid.low < 0; }
  constexpr bool has(ScaleMethod method) const { return row_->sawb || method == ScaleMethod::max; }
  // The format that codes get: another one where the tensor has no negative values.
  constexpr Format of(bool non_negative) const {
    return row_ != nullptr && non_negative && row_->non_negative != nullptr ? Format(row_->non_negative) : *this;
  }
  friend constexpr bool operator==(const Format&, const Format&) = default;

 private:
  const FormatRow* row_ = nullptr;
};
inline constexpr Format Format::float32{};
inline constexpr Format Format::int4{&kInt4Row};
inline constexpr Format Format::uint4{&kUint4Row};
inline constexpr Format Format::fp4{&kFp4Row};

constexpr const char* to_string(Format format) { return format.quantized() ? format.row().name : "float32"; }

// Adds a row to the table, for as long as the program runs. Throws UserError `[format] <name>: expected ..., got ...`
// for a name that is empty or taken, for more than 16 codes, for a plane with value[0] that is not 0 or a magnitude
// beyond 64, for magnitudes that do not rise, where planes and grid disagree on what a code stands for, for sawb on
// another grid than -7..7 or 0..15, and for a non_negative that is no registered format without signs.
Format register_format(const FormatRow& row);

// True of the built-in formats, of those that register_format gave, and of float32.
bool is_registered(Format format);

// Says what was expected of the table of a matmul's operand, "0 as what code 0 stands for, got 1"; "" where it is
// sound.
std::string problem_of(const CodeTable& table);

// All formats by their order of registration, float32 first.
std::vector<Format> all_formats();

// Throws UserError `[format] expected ..., got ...` that names the nearest where there is none of this name.
Format find_format(std::string_view name);

}  // namespace luq
