// Resampling against a direct evaluation of the filter, and every table against ref, to the bit; normalisation
// likewise.
#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/kernels/harness.h"

namespace luq::test {
namespace {

// One direction of Pillow's bilinear filter, in real numbers.
std::vector<double> filtered(const std::vector<double>& x, int64_t outputs) {
  const auto inputs = static_cast<int64_t>(x.size());
  const double scale = static_cast<double>(inputs) / static_cast<double>(outputs), support = std::max(scale, 1.0);
  std::vector<double> y;
  for (int64_t i = 0; i < outputs; ++i) {
    double sum = 0, weights = 0;
    for (int64_t t = 0; t < inputs; ++t) {
      const double distance =
          std::abs((static_cast<double>(t) + 0.5 - (static_cast<double>(i) + 0.5) * scale) / support);
      const double weight = std::max(0.0, 1.0 - distance);
      sum += weight * x[static_cast<size_t>(t)];
      weights += weight;
    }
    y.push_back(sum / weights);
  }
  return y;
}

struct Size {
  int64_t h, w, c, oh, ow;
};

void fill(Guarded<uint8_t>& x, std::mt19937& random, bool extremes) {
  for (int64_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<uint8_t>(extremes ? (random() & 1u) * 255u : random() & 255u);
  }
}

}  // namespace

TEST_CASE("resize is the triangle filter along rows, then along columns", "[kernels][image]") {
  std::mt19937 random(test_seed("resize"));
  for (const Size& s : {Size{40, 30, 3, 17, 21}, {9, 31, 3, 20, 11}, {12, 8, 1, 30, 30}, {50, 3, 3, 7, 9}}) {
    Guarded<uint8_t> x(s.h * s.w * s.c), y(s.oh * s.ow * s.c);
    fill(x, random, false);
    kernels_for({}).resize(
        {.x = x.data(), .h = s.h, .w = s.w, .c = s.c, .row_bytes = s.w * s.c, .oh = s.oh, .ow = s.ow, .y = y.data()});
    for (int64_t c = 0; c < s.c; ++c) {
      std::vector<std::vector<double>> rows;
      for (int64_t i = 0; i < s.h; ++i) {
        std::vector<double> row;
        for (int64_t j = 0; j < s.w; ++j) row.push_back(x[(i * s.w + j) * s.c + c]);
        rows.push_back(filtered(row, s.ow));
        for (double& value : rows.back()) value = std::floor(value + 0.5);
      }
      for (int64_t j = 0; j < s.ow; ++j) {
        std::vector<double> column;
        for (int64_t i = 0; i < s.h; ++i) column.push_back(rows[static_cast<size_t>(i)][static_cast<size_t>(j)]);
        const std::vector<double> expected = filtered(column, s.oh);
        for (int64_t i = 0; i < s.oh; ++i) {
          // Half a level of the last rounding; and a value half-way between two levels may be rounded the other way in
          // the first pass, which moves the result by one level at most.
          REQUIRE(std::abs(y[(i * s.ow + j) * s.c + c] - expected[static_cast<size_t>(i)]) <= 1.5);
        }
      }
    }
  }
}

TEST_CASE("resize keeps what has its size, and constants", "[kernels][image]") {
  for_each_cpu_table([](const Kernels& table) {
    std::mt19937 random(3);
    Guarded<uint8_t> x(7 * 11 * 3), y(7 * 11 * 3);
    fill(x, random, false);
    table.resize({.x = x.data(), .h = 7, .w = 11, .c = 3, .row_bytes = 33, .oh = 7, .ow = 11, .y = y.data()});
    CHECK(y.first_difference(x) == -1);
    Guarded<uint8_t> white(90 * 70 * 3, 255), small(31 * 13 * 3);
    table.resize(
        {.x = white.data(), .h = 90, .w = 70, .c = 3, .row_bytes = 210, .oh = 31, .ow = 13, .y = small.data()});
    for (int64_t i = 0; i < small.size(); ++i) REQUIRE(small[i] == 255);
  });
}

TEST_CASE("resize is the same to the bit in every table", "[kernels][image]") {
  std::mt19937 random(test_seed("resize in every table"));
  const Kernels ref = cpu_kernel_tables().front().table;
  const auto below = [&](int64_t bound) { return 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(bound)); };
  for (int round = 0; round < 60; ++round) {
    Size s{below(90), below(90), round % 7 == 6 ? below(4) : 3, below(90), below(90)};
    if (round % 6 == 1) s.oh = s.h;
    if (round % 6 == 2) s.ow = s.w;
    if (round % 6 == 3) s.w *= 8;  // many taps
    const int64_t row_bytes = s.w * s.c + (round % 3 == 0 ? below(40) : 0);
    Guarded<uint8_t> x((s.h - 1) * row_bytes + s.w * s.c), expected(s.oh * s.ow * s.c);
    fill(x, random, round % 5 == 4);
    kernels::ResizeArgs args{.x = x.data(),
                             .h = s.h,
                             .w = s.w,
                             .c = s.c,
                             .row_bytes = row_bytes,
                             .oh = s.oh,
                             .ow = s.ow,
                             .y = expected.data()};
    ref.resize(args);
    for_each_cpu_table([&](const Kernels& table) {
      INFO(s.h << " x " << s.w << " x " << s.c << " to " << s.oh << " x " << s.ow);
      Guarded<uint8_t> y(s.oh * s.ow * s.c, 77);
      args.y = y.data();
      table.resize(args);
      REQUIRE(y.first_difference(expected) == -1);
      REQUIRE(y.intact());
    });
  }
}

TEST_CASE("A part of a resize is that part of the whole", "[kernels][image]") {
  std::mt19937 random(test_seed("parts of a resize"));
  const Kernels ref = cpu_kernel_tables().front().table;
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint32_t>(bound)); };
  for (int round = 0; round < 80; ++round) {
    Size s{1 + below(90), 1 + below(90), round % 7 == 6 ? 1 : 3, 1 + below(90), 1 + below(90)};
    if (round % 4 == 1) s.oh = s.h;
    if (round % 4 == 2 || round % 8 == 1) s.ow = s.w;
    Guarded<uint8_t> x(s.h * s.w * s.c), whole(s.oh * s.ow * s.c);
    fill(x, random, false);
    ref.resize({.x = x.data(),
                .h = s.h,
                .w = s.w,
                .c = s.c,
                .row_bytes = s.w * s.c,
                .oh = s.oh,
                .ow = s.ow,
                .y = whole.data()});
    const int64_t top = below(s.oh), left = below(s.ow), oh = 1 + below(s.oh - top), ow = 1 + below(s.ow - left);
    const auto rows = kernels::resize_support(s.h, s.oh, top, top + oh);
    const auto columns = kernels::resize_support(s.w, s.ow, left, left + ow);
    REQUIRE((0 <= rows.begin && rows.begin < rows.end && rows.end <= s.h));
    REQUIRE((0 <= columns.begin && columns.begin < columns.end && columns.end <= s.w));
    // Only what resize says it reads is there.
    const int64_t h = rows.end - rows.begin, w = columns.end - columns.begin;
    Guarded<uint8_t> part(h * w * s.c);
    for (int64_t i = 0; i < h; ++i) {
      for (int64_t j = 0; j < w * s.c; ++j) {
        part[i * w * s.c + j] = x[((rows.begin + i) * s.w + columns.begin) * s.c + j];
      }
    }
    for_each_cpu_table([&](const Kernels& table) {
      INFO(s.h << " x " << s.w << " x " << s.c << " to " << s.oh << " x " << s.ow << ": " << oh << " x " << ow
               << " from " << top << ", " << left);
      Guarded<uint8_t> y(oh * ow * s.c, 77);
      table.resize({.x = part.data(),
                    .h = h,
                    .w = w,
                    .c = s.c,
                    .row_bytes = w * s.c,
                    .oh = oh,
                    .ow = ow,
                    .y = y.data(),
                    .rows = {s.h, s.oh, rows.begin, top},
                    .columns = {s.w, s.ow, columns.begin, left}});
      for (int64_t i = 0; i < oh; ++i) {
        for (int64_t j = 0; j < ow * s.c; ++j) {
          REQUIRE(y[i * ow * s.c + j] == whole[((top + i) * s.ow + left) * s.c + j]);
        }
      }
      REQUIRE(y.intact());
    });
  }
}

TEST_CASE("normalize is exact and the same in every table", "[kernels][image]") {
  std::mt19937 random(test_seed("normalize"));
  for (const int64_t channels : {3, 1, 4}) {
    const std::vector<double> mean{0.485, 0.456, 0.406, 0.1}, std{0.229, 0.224, 0.225, 1.7};
    double scale[4], shift[4];
    for (size_t c = 0; c < 4; ++c) {
      scale[c] = 1 / (255 * std[c]);
      shift[c] = -mean[c] / std[c];
    }
    for (const int64_t cols : {0, 1, 7, 8, 9, 31, 256}) {
      const int64_t rows = 3;
      Guarded<uint8_t> x(rows * cols * channels);
      fill(x, random, false);
      for (const bool flip : {false, true}) {
        for_each_cpu_table([&](const Kernels& table) {
          Guarded<float> y(rows * cols * channels, -9);
          table.normalize({.x = x.data(),
                           .rows = rows,
                           .cols = cols,
                           .c = channels,
                           .scale = scale,
                           .shift = shift,
                           .flip = flip,
                           .y = y.data()});
          REQUIRE(y.intact());
          for (int64_t i = 0; i < rows * cols * channels; ++i) {
            const int64_t c = i % channels, col = i / channels % cols, row = i / channels / cols;
            const double value = x[(row * cols + (flip ? cols - 1 - col : col)) * channels + c];
            const auto expected =
                static_cast<float>((value / 255 - mean[static_cast<size_t>(c)]) / std[static_cast<size_t>(c)]);
            REQUIRE(y[i] == expected);
          }
        });
      }
    }
  }
}

}  // namespace luq::test
