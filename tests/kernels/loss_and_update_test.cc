// Cross-entropy near ref in every table; SGD and AdamW, the same to the bit.

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/floats.h"

namespace luq::test {
namespace {

// Within tolerance of 1 and of the expected value; NaN where NaN is expected.
void require_near(const Guarded<float>& got, const Guarded<float>& expected, double tolerance, double relative) {
  for (int64_t i = 0; i < got.size(); ++i) {
    INFO("element " << i << ": " << got[i] << " and " << expected[i]);
    const double a = static_cast<double>(got[i]), b = static_cast<double>(expected[i]);
    if (std::isnan(b)) {
      REQUIRE(std::isnan(a));
    } else {
      REQUIRE((a == b || std::fabs(a - b) <= tolerance + relative * std::fabs(b)));
    }
  }
}

}  // namespace

TEST_CASE("Cross-entropy equals ref in every table", "[kernels][loss]") {
  std::mt19937 rng(test_seed("loss"));
  for (const auto& [rows, classes] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 10}, {1, 1}, {3, 10}, {128, 10}, {9, 256}, {9, 257}, {70, 1000}}) {
    const Random logits(rows * classes, rng, 0, 30);
    Guarded<int32_t> labels(rows);
    for (int64_t i = 0; i < rows; ++i) labels[i] = static_cast<int32_t>(rng() % static_cast<uint64_t>(classes));
    for (const float smoothing : {0.0f, 0.1f}) {
      int64_t expected_correct = -1;
      Guarded<float> expected_loss(rows);
      compare({.elements = rows * classes}, rows * classes, 1e-6, 1,
              [&, n = rows, k = classes](const Kernels& table, Guarded<float>& dlogits) {
                Guarded<float> loss(n);
                int64_t correct = 0;
                table.cross_entropy(
                    {logits.data(), labels.data(), n, k, smoothing, loss.data(), dlogits.data(), 1.0f, &correct});
                if (expected_correct < 0) expected_correct = correct;
                REQUIRE(correct == expected_correct);
                for (int64_t i = 0; i < n; ++i) REQUIRE(std::isfinite(loss[i]));
              });
      Guarded<int32_t> others(rows);
      Guarded<float> weights(rows);
      for (int64_t i = 0; i < rows; ++i) {
        others[i] = static_cast<int32_t>(rng() % static_cast<uint64_t>(classes));
        weights[i] = static_cast<float>(rng() % 256) / 255.0f;
      }
      compare({.elements = rows * classes}, rows * classes, 1e-6, 1,
              [&, n = rows, k = classes](const Kernels& table, Guarded<float>& dlogits) {
                table.cross_entropy({logits.data(), labels.data(), n, k, smoothing, nullptr, dlogits.data(), 1.0f,
                                     nullptr, others.data(), weights.data()});
              });
    }
  }
}

TEST_CASE("Cross-entropy of ties, infinities and NaN is ref's in every table", "[kernels][loss]") {
  std::mt19937 rng(test_seed("loss of ties"));
  const Kernels ref = cpu_kernel_tables().front().table;
  for (const int64_t classes : {40, 300}) {
    const int64_t rows = 12;
    Random logits(rows * classes, rng);
    const auto at = [&](int64_t row, int64_t k) -> float& { return logits[row * classes + k]; };
    at(0, 3) = at(0, 35) = at(0, 17) = 9;  // ties
    at(1, 0) = NAN;                        // the first
    at(2, 20) = NAN;                       // another
    at(3, 11) = INFINITY;                  // the largest
    at(4, 11) = -INFINITY;                 // a target of 0
    for (int64_t k = 0; k < classes; ++k) at(5, k) = -INFINITY, at(6, k) = NAN, at(7, k) = 2;
    at(8, 7) = 40;  // a loss near 0
    at(9, 7) = 15;
    const std::vector<int32_t> labels{17, 0, 0, 11, 5, 0, 0, 0, 7, 7, 1, 2};
    Guarded<float> expected_loss(rows), expected(rows * classes);
    int64_t expected_correct = -1;
    ref.cross_entropy({logits.data(), labels.data(), rows, classes, 0.0f, expected_loss.data(), expected.data(), 1.0f,
                       &expected_correct});
    for_each_table({.elements = rows * classes}, [&](const Kernels& table) {
      Guarded<float> loss(rows), dlogits(rows * classes);
      int64_t correct = -1;
      table.cross_entropy(
          {logits.data(), labels.data(), rows, classes, 0.0f, loss.data(), dlogits.data(), 1.0f, &correct});
      CHECK(correct == expected_correct);
      // Of a loss near 0 the reference's double keeps 1e-14; a difference of logits of up to 44 rounds to float32.
      require_near(loss, expected_loss, 2e-14, 4e-6);
      require_near(dlogits, expected, 2e-14, 4e-6);
    });
  }
}

TEST_CASE("SGD is the same in every table", "[kernels][sgd]") {
  std::mt19937 rng(test_seed("sgd"));
  for (const int64_t count : {0, 1, 5, 1023, 1024, 2051, 40003}) {
    INFO("count " << count);
    const Random start(count, rng), g(count, rng), v0(count, rng);
    for (const bool nesterov : {false, true}) {
      for (const bool first : {false, true}) {
        for (const bool with_velocity : {false, true}) {
          const float scale = with_velocity ? 0.3f : 1.0f;
          Guarded<float> expected(count), expected_v(count);
          bool is_ref = true;
          for_each_table({.elements = count}, [&](const Kernels& table) {
            Guarded<float> w(count), v(count);
            std::memcpy(w.data(), start.data(), static_cast<size_t>(count) * sizeof(float));
            std::memcpy(v.data(), v0.data(), static_cast<size_t>(count) * sizeof(float));
            table.sgd({w.data(), g.data(), with_velocity ? v.data() : nullptr, count, 0.1f, 0.9f, 5e-4f, nesterov,
                       first, scale});
            if (is_ref) {
              std::memcpy(expected.data(), w.data(), static_cast<size_t>(count) * sizeof(float));
              std::memcpy(expected_v.data(), v.data(), static_cast<size_t>(count) * sizeof(float));
              is_ref = false;
            }
            REQUIRE(w.first_difference(expected) == -1);
            REQUIRE(v.first_difference(expected_v) == -1);
          });
        }
      }
    }
  }
}

TEST_CASE("AdamW is the same in every table", "[kernels][adamw]") {
  std::mt19937 rng(test_seed("adamw"));
  for (const int64_t count : {0, 1, 5, 1023, 1024, 2051, 40003}) {
    INFO("count " << count);
    const Random start(count, rng), g(count, rng), m0(count, rng);
    Random v0(count, rng);
    for (int64_t i = 0; i < count; ++i) v0[i] = std::fabs(v0[i]);
    for (const int64_t step : {1, 2, 100000}) {
      Guarded<float> expected[3] = {Guarded<float>(count), Guarded<float>(count), Guarded<float>(count)};
      bool is_ref = true;
      for_each_table({.elements = count}, [&](const Kernels& table) {
        Guarded<float> w(count), m(count), v(count);
        Guarded<float>* all[] = {&w, &m, &v};
        const Guarded<float>* from[] = {&start, &m0, &v0};
        for (int i = 0; i < 3; ++i) {
          std::memcpy(all[i]->data(), from[i]->data(), static_cast<size_t>(count) * sizeof(float));
        }
        table.adamw({w.data(), g.data(), m.data(), v.data(), count, 1e-3f, 0.9f, 0.999f, 1e-8f, 0.05f, step, 0.7f});
        for (int i = 0; i < 3; ++i) {
          if (is_ref) std::memcpy(expected[i].data(), all[i]->data(), static_cast<size_t>(count) * sizeof(float));
          REQUIRE(all[i]->first_difference(expected[i]) == -1);
          REQUIRE(all[i]->intact());
        }
        is_ref = false;
      });
    }
  }
}

}  // namespace luq::test
