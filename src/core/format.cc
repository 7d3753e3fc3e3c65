#include "luq/core/format.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <mutex>
#include <string>

#include "luq/core/error.h"
#include "luq/core/nearest.h"

namespace luq {
namespace {

// The rows of other programs, and their names, stay where they are for as long as this one runs.
struct Table {
  std::mutex mutex;
  std::deque<std::string> names;
  std::deque<FormatRow> rows;
  std::vector<Format> formats{Format::float32, Format::int4, Format::uint4, Format::fp4};
};

Table& table() {
  static auto* const kept = new Table;
  return *kept;
}

// The following say what was expected of a row; "" where it is sound.
std::string problem_of_grid(const Grid& grid) {
  if (grid.kind == GridKind::uniform) {
    if (grid.low > 0 || grid.high < 1) {
      return fmt::format("a grid with 0 and 1 in it, got {}..{}", grid.low, grid.high);
    }
    const int64_t integers = int64_t{grid.high} - grid.low + 1;
    return integers <= 16 ? "" : fmt::format("at most 16 codes, got {} integers", integers);
  }
  if (grid.magnitudes < 1) return fmt::format("at least 1 magnitude, got {}", grid.magnitudes);
  if (grid.magnitudes > kMaxGridMagnitudes) {
    return fmt::format("at most 16 codes, which are 0 and {} magnitudes with both signs, got {} magnitudes",
                       kMaxGridMagnitudes, grid.magnitudes);
  }
  const Grid powers = powers_grid(grid.kind, grid.magnitudes);
  for (int i = 1; i <= grid.magnitudes; ++i) {
    const float level = grid.level[i], before = i > 1 ? grid.level[i - 1] : 0;
    if (!std::isfinite(level) || !(level > before)) {
      return fmt::format("finite magnitudes that rise from above 0, got {} after {}", level, before);
    }
    if (grid.kind != GridKind::levels && level != powers.level[i]) {
      return fmt::format("{} as number {} of these powers, got {}", powers.level[i], i, level);
    }
  }
  return "";
}

std::string problem_of_planes(const FormatRow& row) {
  if (row.planes < 1 || row.planes > kMaxFormatPlanes) {
    return fmt::format("1 to {} planes, got {}", kMaxFormatPlanes, row.planes);
  }
  for (int i = 0; i < row.planes; ++i) {
    const FormatPlane& plane = row.plane[i];
    const std::string problem = problem_of(plane.table);
    if (!problem.empty()) return fmt::format("{} in plane {}", problem, i);
    if (!std::isfinite(plane.factor) || plane.factor <= 0) {
      return fmt::format("a finite factor above 0 in plane {}, got {}", i, plane.factor);
    }
  }
  return "";
}

// Planes give what the grid has, for every code that an encoder makes.
std::string problem_of_values(const FormatRow& row) {
  std::string problem;
  const auto compare = [&](int code, double value) {
    if (!problem.empty() || row.value(code) == value) return;
    problem = fmt::format("code {} to stand for {}, as in the grid, got {}", code, value, row.value(code));
  };
  const Grid& grid = row.grid;
  if (grid.kind == GridKind::uniform) {
    for (int value = grid.low; value <= grid.high; ++value) compare(value & 15, value);
  } else {
    for (int i = 1; i <= grid.magnitudes; ++i) {
      compare(i, static_cast<double>(grid.level[i]));
      compare(8 + i, -static_cast<double>(grid.level[i]));
    }
  }
  return problem;
}

std::string problem_of_methods(const FormatRow& row) {
  const bool has_constants = row.grid.kind == GridKind::uniform &&
                             ((row.grid.low == -7 && row.grid.high == 7) || (row.grid.low == 0 && row.grid.high == 15));
  return !row.sawb || has_constants ? "" : "no sawb, whose constants are those of -7..7 and 0..15";
}

std::string problem_of_non_negative(const FormatRow& row) {
  if (row.non_negative == nullptr) return "";
  const Format other(row.non_negative);
  if (std::ranges::find(table().formats, other) == table().formats.end()) {
    return "a registered row in place of it for tensors without negative values, got one that is not registered";
  }
  if (!other.is_signed()) return "";
  return fmt::format("a format without signs in place of it for tensors without negative values, got {}",
                     to_string(other));
}

}  // namespace

std::string problem_of(const CodeTable& table) {
  if (table.value[0] != 0) return fmt::format("0 as what code 0 stands for, got {}", table.value[0]);
  const int most = table.magnitude();
  return most <= kMaxCodeValue ? "" : fmt::format("magnitudes up to {}, got {}", kMaxCodeValue, most);
}

Format register_format(const FormatRow& row) {
  const std::string name = row.name != nullptr ? row.name : "";
  if (name.empty()) fail_user("[format] expected a name, got an empty one");
  const std::lock_guard lock(table().mutex);
  for (const Format known : table().formats) {
    if (name == to_string(known)) fail_user("[format] {}: expected another name, got that of a format", name);
  }
  const auto require = [&](const std::string& problem) {
    if (!problem.empty()) fail_user("[format] {}: expected {}", name, problem);
  };
  require(problem_of_grid(row.grid));
  require(problem_of_planes(row));
  require(problem_of_values(row));
  require(problem_of_methods(row));
  require(problem_of_non_negative(row));
  FormatRow& kept = table().rows.emplace_back(row);
  kept.name = table().names.emplace_back(name).c_str();
  return table().formats.emplace_back(&kept);
}

bool is_registered(Format format) {
  const std::lock_guard lock(table().mutex);
  return std::ranges::find(table().formats, format) != table().formats.end();
}

std::vector<Format> all_formats() {
  const std::lock_guard lock(table().mutex);
  return table().formats;
}

Format find_format(std::string_view name) {
  std::vector<std::string> names;
  for (const Format format : all_formats()) {
    if (name == to_string(format)) return format;
    names.emplace_back(to_string(format));
  }
  fail_user("[format] expected one of {}, got '{}'{}", fmt::join(names, ", "), name, did_you_mean(name, names));
}

}  // namespace luq
