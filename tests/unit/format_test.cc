// The table of formats: what is registered, found and refused.

#include "luq/core/format.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/catch.h"
#include "tests/refusal.h"
#include "tests/unit/formats.h"

using namespace luq;
using namespace luq::test;

namespace {

FormatRow int3_row(const char* name) { return {name, uniform_grid(-3, 3), 1, {{signed_integers()}}}; }

// A row of levels whose table holds them where they fit.
FormatRow levels_row(const char* name, const Grid& grid) { return {name, grid, 1, {{signed_magnitudes(grid)}}}; }

// Registers a changed row and expects a refusal that names it.
template <typename Change>
void refused(FormatRow row, Change change, const std::string& message) {
  row.name = "test_refused";
  change(row);
  const std::string text = refusal([&] { register_format(row); });
  CHECK_THAT(text, contains_text("[format] test_refused: expected " + message));
}

}  // namespace

TEST_CASE("A registered format is found by its name and outlives what it was registered from", "[format]") {
  const auto registered = [] {
    const std::string name = "test_lives";
    const FormatRow row = int3_row(name.c_str());
    return register_format(row);
  };
  const Format format = registered();
  CHECK(find_format("test_lives") == format);
  CHECK(to_string(format) == std::string("test_lives"));
  CHECK(format.grid().high == 3);
  CHECK(is_registered(format));
  const FormatRow other = int3_row("test_lives");
  CHECK_FALSE(is_registered(Format(&other)));
  const std::vector<Format> all = all_formats();
  CHECK(all.front() == Format::float32);
  CHECK(std::ranges::find(all, format) != all.end());
}

TEST_CASE("The built-in formats would be accepted by other names", "[format]") {
  for (const Format format : {Format::uint4, Format::int4, Format::fp4}) {
    CHECK(find_format(to_string(format)) == format);
    FormatRow row = format.row();
    const std::string name = std::string("test_copy_of_") + row.name;
    row.name = name.c_str();
    const Format copy = register_format(row);
    CHECK(find_format(name) == copy);
  }
  CHECK(find_format("float32") == Format::float32);
}

TEST_CASE("A format of no negative values comes in place of one that has them", "[format]") {
  CHECK(Format::int4.of(true) == Format::uint4);
  CHECK(Format::int4.of(false) == Format::int4);
  CHECK(Format::fp4.of(true) == Format::fp4);
  CHECK(Format::float32.of(true) == Format::float32);
  const Format non_negative = int3().of(true);
  CHECK(find_format("test_uint3") == non_negative);
}

TEST_CASE("A name that no format has is refused with the nearest", "[format]") {
  CHECK_THAT(refusal([] { find_format("int5"); }),
             contains_text("[format] expected one of float32, int4") && contains_text("did you mean int4?"));
  CHECK_THAT(refusal([] { find_format("something else"); }), contains_text("got 'something else'"));
}

TEST_CASE("A row that is no format is refused with its name and the reason", "[format]") {
  const Grid fp4 = powers_grid(GridKind::powers_of_2, 7);
  const FormatRow integers = int3_row(""), powers{"", fp4, 1, {{signed_magnitudes(fp4)}}};
  CHECK_THAT(refusal([&] { register_format(integers); }), contains_text("expected a name, got an empty one"));
  CHECK_THAT(refusal([&] { register_format(int3_row("fp4")); }), contains_text("[format] fp4: expected another name"));
  CHECK_THAT(refusal([&] { register_format(int3_row("float32")); }), contains_text("expected another name"));
  refused(
      integers, [](FormatRow& row) { row.grid.low = 1; }, "a grid with 0 and 1 in it, got 1..3");
  refused(
      integers, [](FormatRow& row) { row.grid.high = 0; }, "a grid with 0 and 1 in it, got -3..0");
  refused(
      integers, [](FormatRow& row) { row.grid.low = -9, row.grid.high = 7; }, "at most 16 codes, got 17 integers");
  refused(
      integers, [](FormatRow& row) { row.grid.low = -2147483647, row.grid.high = 2147483647; },
      "at most 16 codes, got 4294967295 integers");
  refused(
      integers,
      [](FormatRow& row) {
        row.grid = levels_grid({1, 2, 3, 4, 5, 6, 7, 8});
      },
      "at most 16 codes");
  refused(
      integers, [](FormatRow& row) { row.grid.kind = GridKind::levels; }, "at least 1 magnitude");
  refused(
      integers, [](FormatRow& row) { row.plane[0].table.value[0] = 1; }, "0 as what code 0 stands for, got 1");
  refused(
      integers, [](FormatRow& row) { row.plane[0].table.value[9] = 65; }, "magnitudes up to 64, got 65");
  refused(
      integers, [](FormatRow& row) { row.plane[0].table.value[8] = -128; }, "magnitudes up to 64, got 128");
  refused(
      radix4().row(), [](FormatRow& row) { row.plane[1].table.value[7] = 127; },
      "magnitudes up to 64, got 127 in plane 1");
  refused(
      integers, [](FormatRow& row) { row.planes = 0; }, "1 to 2 planes, got 0");
  refused(
      integers, [](FormatRow& row) { row.planes = 3; }, "1 to 2 planes, got 3");
  for (const float factor : {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    refused(
        integers, [&](FormatRow& row) { row.plane[0].factor = factor; }, "a finite factor above 0 in plane 0");
  }
  for (const Grid& grid : {levels_grid({1, 3, 3}), levels_grid({0, 1}), levels_grid({-1, 1}), levels_grid({1, 5, 4}),
                           levels_grid({1, std::numeric_limits<float>::infinity()}), levels_grid({std::nanf("")})}) {
    refused(
        levels_row("", grid), [](FormatRow&) {}, "finite magnitudes that rise from above 0");
  }
  refused(
      powers, [](FormatRow& row) { row.grid.level[2] = 3; }, "2 as number 2 of these powers, got 3");
  refused(
      integers, [](FormatRow& row) { row.plane[0].table.value[15] = 1; },
      "code 15 to stand for -1, as in the grid, got 1");
  refused(
      powers, [](FormatRow& row) { row.plane[0].table.value[3] = 5; }, "code 3 to stand for 4, as in the grid, got 5");
  refused(
      radix4().row(), [](FormatRow& row) { row.planes = 1; }, "code 5 to stand for 256, as in the grid, got 0");
  refused(
      integers, [](FormatRow& row) { row.sawb = true; }, "no sawb");
  refused(
      powers, [](FormatRow& row) { row.sawb = true; }, "no sawb");
  refused(
      {"", uniform_grid(-8, 7), 1, {{signed_integers()}}, true}, [](FormatRow&) {}, "no sawb");
  refused(
      integers, [](FormatRow& row) { row.non_negative = &row; }, "a registered row in place of it");
  refused(
      integers, [](FormatRow& row) { row.non_negative = &Format::fp4.row(); }, "a format without signs");
  CHECK_THROWS_AS(find_format("test_refused"), UserError);  // none of these was kept
}
