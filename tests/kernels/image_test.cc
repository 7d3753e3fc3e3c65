// Resampling against a direct evaluation of the filter, and every table against ref, to the bit; from bytes to floats
// likewise.
#include <algorithm>
#include <cmath>
#include <cstring>
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

namespace {

// Images with all that may be done to them, and what becomes of them, in the plainest way.
struct ImagesCase {
  int64_t n, h, w, c;
  Guarded<uint8_t> x, edits;
  ImageMix mix;

  ImagesCase(int64_t n_, int64_t h_, int64_t w_, int64_t c_, ImageMix::Kind kind, std::mt19937& random)
      : n(n_), h(h_), w(w_), c(c_), x(n_ * h_ * w_ * c_), edits(n_ * image_edit_bytes(c_)) {
    const auto below = [&](int64_t bound) { return static_cast<int32_t>(random() % static_cast<uint32_t>(bound)); };
    const auto place = [&](auto& part) {
      part.top = below(h + 1);
      part.left = below(w + 1);
      part.height = below(h - part.top + 1);
      part.width = below(w - part.left + 1);
    };
    fill(x, random, false);
    for (int64_t i = 0; i < n; ++i) {
      ImageEdit edit{.flip = below(2)};
      if (below(2) == 1) place(edit);
      std::memcpy(edits.data() + i * image_edit_bytes(c), &edit, sizeof edit);
      auto* scales = const_cast<double*>(image_scales(image_edit(edits.data(), c, i)));
      for (int64_t k = 0; k < c; ++k) {
        scales[k] = 1 / (255 * (0.2 + 0.01 * below(20)));
        scales[c + k] = -2 + 0.01 * below(200);
      }
    }
    mix.kind = kind;
    mix.own = 0.001f * static_cast<float>(below(1000));
    mix.others = 1 - mix.own;
    if (kind == ImageMix::Kind::cutmix) place(mix);
  }

  static bool inside(const auto& part, int64_t row, int64_t col) {
    return part.top <= row && row < part.top + part.height && part.left <= col && col < part.left + part.width;
  }
  float unmixed(int64_t i, int64_t row, int64_t col, int64_t k) const {
    const ImageEdit& edit = image_edit(edits.data(), c, i);
    const double* scales = image_scales(edit);
    const double byte = x[((i * h + row) * w + (edit.flip != 0 ? w - 1 - col : col)) * c + k];
    return inside(edit, row, col) ? 0.0f : static_cast<float>(std::fma(byte, scales[k], scales[c + k]));
  }
  float expected(int64_t i, int64_t row, int64_t col, int64_t k) const {
    const int64_t other = (i + n - 1) % n;
    if (mix.kind == ImageMix::Kind::mixup) {
      const float from_other = unmixed(other, row, col, k) * mix.others, from_own = unmixed(i, row, col, k) * mix.own;
      return from_other + from_own;
    }
    const bool cut = mix.kind == ImageMix::Kind::cutmix && inside(mix, row, col);
    return unmixed(cut ? other : i, row, col, k);
  }
  kernels::FinishImagesArgs args(int64_t first, int64_t count, kernels::Floats y) const {
    return {.x = x.data(),
            .n = n,
            .h = h,
            .w = w,
            .c = c,
            .edits = edits.data(),
            .mix = mix,
            .first = first,
            .count = count,
            .y = y};
  }
};

}  // namespace

TEST_CASE("finish_images normalises as (value / 255 - mean) / std", "[kernels][image]") {
  const double mean[] = {0.485, 0.456, 0.406}, std[] = {0.229, 0.224, 0.225};
  Guarded<uint8_t> x(16 * 16 * 3), edits(image_edit_bytes(3));
  for (int64_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i / 3);  // every value in every channel
  const ImageEdit edit;
  std::memcpy(edits.data(), &edit, sizeof edit);
  auto* scales = const_cast<double*>(image_scales(image_edit(edits.data(), 3, 0)));
  for (int c = 0; c < 3; ++c) {
    scales[c] = 1 / (255 * std[c]);
    scales[3 + c] = -mean[c] / std[c];
  }
  for_each_table({.elements = x.size()}, [&](const Kernels& table) {
    Guarded<float> y(x.size(), -9);
    table.finish_images({.x = x.data(),
                         .n = 1,
                         .h = 16,
                         .w = 16,
                         .c = 3,
                         .edits = edits.data(),
                         .mix = {},
                         .first = 0,
                         .count = 1,
                         .y = y.data()});
    for (int64_t i = 0; i < x.size(); ++i) {
      REQUIRE(y[i] == static_cast<float>((x[i] / 255.0 - mean[i % 3]) / std[i % 3]));
    }
  });
}

TEST_CASE("finish_images flips, normalises, erases and mixes, the same to the bit in every table", "[kernels][image]") {
  std::mt19937 random(test_seed("finish_images"));
  for (const int64_t c : {3, 1, 2, 4, 5, 24}) {
    for (const int64_t w : {1, 7, 8, 9, 31, 150}) {
      for (const auto kind : {ImageMix::Kind::none, ImageMix::Kind::mixup, ImageMix::Kind::cutmix}) {
        const int64_t n = 1 + static_cast<int64_t>(random() % 4u), h = w == 150 ? 18 : 3;
        const ImagesCase images(n, h, w, c, kind, random);
        const int64_t first = static_cast<int64_t>(random() % static_cast<uint32_t>(n)), count = n - first;
        Guarded<float> expected(count * h * w * c);
        Guarded<BFloat16> rounded(expected.size());
        for (int64_t at = 0; at < expected.size(); ++at) {
          const int64_t row = at / (w * c) % h;
          expected[at] = images.expected(first + at / (h * w * c), row, at / c % w, at % c);
          rounded[at] = to_bfloat16(expected[at]);
        }
        for_each_table({.elements = expected.size()}, [&](const Kernels& table) {
          INFO(n << " images of " << h << " x " << w << " x " << c << ", mix " << static_cast<int>(kind) << ", from "
                 << first);
          Guarded<float> y(expected.size(), -9);
          table.finish_images(images.args(first, count, y.data()));
          REQUIRE(y.first_difference(expected) == -1);
          REQUIRE(y.intact());
          Guarded<BFloat16> half(expected.size(), BFloat16{7});
          table.finish_images(images.args(first, count, half.data()));
          REQUIRE(half.first_difference(rounded) == -1);
          REQUIRE(half.intact());
        });
      }
    }
  }
}

TEST_CASE("finish_images makes nothing of nothing", "[kernels][image]") {
  std::mt19937 random(5);
  const ImagesCase images(2, 4, 5, 3, ImageMix::Kind::mixup, random);
  for_each_table({}, [&](const Kernels& table) {
    Guarded<float> y(0);
    table.finish_images(images.args(1, 0, y.data()));
    CHECK(y.intact());
  });
}

}  // namespace luq::test
