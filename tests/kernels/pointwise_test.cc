// Pointwise kernels and moves: the same in every table.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/numerics.h"
#include "kernels/ref/float_ops.h"
#include "tests/kernels/floats.h"

namespace luq::test {

using namespace luq::kernels;

TEST_CASE("Pointwise kernels equal ref in every table", "[kernels][pointwise]") {
  std::mt19937 rng(test_seed("pointwise"));
  for (const int64_t count : {0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 8191, 8193, 40001}) {
    INFO("count " << count);
    Random a(count, rng), b(count, rng);
    if (count > 8) {
      a[1] = NAN;
      a[3] = 0.0f;
      a[5] = -0.0f;
    }
    for (int64_t i = 7; i < count; i += 7) a[i] = i % 2 == 0 ? 1.5f : std::nextafter(1.5f, i % 3 == 0 ? 0.0f : 2.0f);
    if (count > 16) a[9] = INFINITY, a[10] = -INFINITY, a[11] = -NAN;
    constexpr float kCeiling = 1.5f;
    Guarded<uint8_t> expected_mask((count + 7) / 8);
    ref::relu<float>(a.data(), count, Guarded<float>(count).data(), expected_mask.data());
    for_each_table({.elements = count}, [&](const Kernels& table) {
      for (const int threads : {1, 3}) {
        const Threads scope(threads);
        Guarded<float> y(count), without_mask(count), dx(count), sum(count), kept(count);
        Guarded<uint8_t> mask((count + 7) / 8, 0xff);
        table.relu({a.data(), count, y.data(), mask.data()});
        table.relu({a.data(), count, without_mask.data(), nullptr});
        table.relu_backward({b.data(), mask.data(), count, dx.data()});
        Guarded<float> clipped(count, NAN), clipped_dx(count);
        Guarded<uint8_t> clipped_mask((count + 7) / 8, 0xff);
        table.relu({a.data(), count, clipped.data(), clipped_mask.data(), kCeiling});
        table.relu_backward({b.data(), clipped_mask.data(), count, clipped_dx.data()});
        for (int64_t bit = count; bit < 8 * clipped_mask.size(); ++bit) {
          REQUIRE((clipped_mask[bit / 8] >> (bit % 8) & 1) == 0);
        }
        table.add({b.data(), b.data(), count, sum.data()});
        table.dropout({b.data(), count, 0.3f, {1, 2, 3, 4}, kept.data()});
        Guarded<float> in_place(count);
        const auto of = [&](const Guarded<float>& x) {
          std::memcpy(in_place.data(), x.data(), static_cast<size_t>(count) * sizeof(float));
          return in_place.data();
        };
        table.relu({of(a), count, in_place.data(), nullptr});
        REQUIRE(in_place.first_difference(y) == -1);
        table.relu_backward({of(b), mask.data(), count, in_place.data()});
        REQUIRE(in_place.first_difference(dx) == -1);
        table.add({of(b), b.data(), count, in_place.data()});
        REQUIRE(in_place.first_difference(sum) == -1);
        table.add({b.data(), of(b), count, in_place.data()});
        REQUIRE(in_place.first_difference(sum) == -1);
        table.dropout({of(b), count, 0.3f, {1, 2, 3, 4}, in_place.data()});
        REQUIRE(in_place.first_difference(kept) == -1);
        REQUIRE(mask.first_difference(expected_mask) == -1);
        REQUIRE(y.first_difference(without_mask) == -1);
        for (int64_t i = 0; i < count; ++i) {
          if (std::isnan(a[i])) {
            REQUIRE(std::isnan(y[i]));
          } else {
            REQUIRE(y[i] == (a[i] > 0 ? a[i] : 0.0f));
          }
          REQUIRE(dx[i] == (a[i] <= 0 ? 0.0f : b[i]));  // NaN passes, as in PyTorch
          if (std::isnan(a[i])) {
            REQUIRE(std::isnan(clipped[i]));
          } else {
            REQUIRE(clipped[i] == std::min(std::max(a[i], 0.0f), kCeiling));
          }
          REQUIRE(clipped_dx[i] == (a[i] <= 0 || a[i] >= kCeiling ? 0.0f : b[i]));
          REQUIRE(sum[i] == b[i] + b[i]);
          const bool keep =
              random16(philox({1, 2, 3, 4}, static_cast<uint64_t>(i / 8)), static_cast<int>(i % 8)) >= 19661;
          REQUIRE(kept[i] == (keep ? b[i] * (1.0f / (1.0f - 0.3f)) : 0.0f));
        }
      }
    });
  }
}

TEST_CASE("moving_average and copy_rows do what they say", "[kernels][pointwise]") {
  for_each_table({}, [](const Kernels& table) {
    for (const int64_t count : {0, 1, 77, 40000}) {
      Guarded<float> value(count, 3), average(count, 1);
      table.moving_average(
          {.value = value.data(), .count = count, .decay = 0.75f, .rest = 0.25f, .average = average.data()});
      for (int64_t i = 0; i < count; ++i) REQUIRE(average[i] == 1.5f);
    }
    Guarded<uint8_t> from(30), to(40, 9);
    for (int64_t i = 0; i < 30; ++i) from[i] = static_cast<uint8_t>(i);
    table.copy_rows(
        {.from = from.data() + 2, .from_stride = 10, .rows = 3, .bytes = 7, .to_stride = 13, .to = to.data()});
    for (int64_t i = 0; i < 40; ++i) CHECK(to[i] == (i % 13 < 7 && i < 33 ? 10 * (i / 13) + 2 + i % 13 : 9));
  });
}

}  // namespace luq::test
