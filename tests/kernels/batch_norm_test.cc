// Batch norm, its fused kernels and sums of columns: every table against ref, within bounds that follow from float32,
// or against the chain of entries that a fused one stands for, to the bit.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/ref/float_ops.h"
#include "tests/kernels/floats.h"

namespace luq::test {
namespace {

using namespace luq::kernels;

std::vector<std::pair<int64_t, int64_t>> row_shapes(std::mt19937& rng) {
  std::vector<std::pair<int64_t, int64_t>> shapes{{1, 1},    {2, 1},    {3, 16},   {255, 17}, {256, 16},
                                                  {257, 15}, {1000, 3}, {5, 1000}, {4097, 8}, {700, 64},
                                                  {64, 512}, {33, 31},  {70, 264}};
  for (int i = 0; i < 10; ++i) {
    shapes.emplace_back(1 + static_cast<int64_t>(rng() % 600), 1 + static_cast<int64_t>(rng() % 100));
  }
  return shapes;
}

// What the fused kernels of batch norm give, and the chain of entries that they stand for.
struct NormResult {
  Guarded<float> y, dresidual, dx, dgamma, dbeta;
  Guarded<uint8_t> mask;
  Stats forward, backward;

  NormResult(int64_t rows, int64_t c)
      : y(rows * c, NAN),
        dresidual(rows * c, NAN),
        dx(rows * c, NAN),
        dgamma(c),
        dbeta(c),
        mask((rows * c + 7) / 8, 0xff) {}
  void require_equal(const NormResult& other) const {
    for (const auto member :
         {&NormResult::y, &NormResult::dresidual, &NormResult::dx, &NormResult::dgamma, &NormResult::dbeta}) {
      REQUIRE((this->*member).intact());
      REQUIRE((this->*member).first_difference(other.*member) == -1);
    }
    REQUIRE(mask.first_difference(other.mask) == -1);
    for (const auto member : {&NormResult::forward, &NormResult::backward}) {
      const Stats &a = this->*member, &b = other.*member;
      REQUIRE(a.sum_abs == b.sum_abs);
      REQUIRE(a.sum_sq == b.sum_sq);
      REQUIRE(a.count == b.count);
      REQUIRE(a.nonzero == b.nonzero);
      REQUIRE(a.abs_bits_max == b.abs_bits_max);
    }
  }
};

}  // namespace

TEST_CASE("Batch norm and column sums equal ref in every table", "[kernels][batch_norm]") {
  std::mt19937 rng(test_seed("batch norm"));
  for (const auto& [rows, c] : row_shapes(rng)) {
    INFO(rows << "x" << c);
    const int64_t r = rows, cols = c;
    const Work elements{.elements = r * cols};
    const Random x(r * cols, rng, 3, 2), dy(r * cols, rng);
    const Random gamma(cols, rng), beta(cols, rng);
    const double root = std::sqrt(static_cast<double>(r)) + 1;
    compare(elements, cols, 1e-5, root, [&](const Kernels& table, Guarded<float>& sum) {
      table.column_sum({dy.data(), r, cols, sum.data()});
    });
    Guarded<float> mean(cols), variance(cols);
    cpu_kernel_tables().front().table.batch_norm_stats({x.data(), r, cols, mean.data(), variance.data()});
    compare(elements, cols, 1e-5, 10, [&](const Kernels& table, Guarded<float>& result) {
      Guarded<float> other(cols);
      table.batch_norm_stats({x.data(), r, cols, result.data(), other.data()});
    });
    compare(elements, cols, 1e-5, 40, [&](const Kernels& table, Guarded<float>& result) {
      Guarded<float> other(cols);
      table.batch_norm_stats({x.data(), r, cols, other.data(), result.data()});
    });
    Guarded<float> inverse_std(cols);
    for (int64_t i = 0; i < cols; ++i) inverse_std[i] = 1.0f / std::sqrt(variance[i] + 1e-5f);
    // A single row has no spread: its inverse standard deviation is 1/sqrt(eps), about 316.
    const double spread = r < 4 ? 1e5 : 30;
    for (const bool in_place : {false, true}) {
      compare(elements, r * cols, 1e-5, spread, [&](const Kernels& table, Guarded<float>& y) {
        if (in_place) std::memcpy(y.data(), x.data(), static_cast<size_t>(r * cols) * sizeof(float));
        table.batch_norm_apply({in_place ? y.data() : x.data(), r, cols, mean.data(), inverse_std.data(), gamma.data(),
                                beta.data(), y.data()});
      });
      for (const bool training : {false, true}) {
        compare(elements, r * cols, 1e-5, spread, [&](const Kernels& table, Guarded<float>& dx) {
          Guarded<float> dgamma(cols), dbeta(cols);
          if (in_place) std::memcpy(dx.data(), dy.data(), static_cast<size_t>(r * cols) * sizeof(float));
          table.batch_norm_backward({x.data(), in_place ? dx.data() : dy.data(), r, cols, mean.data(),
                                     inverse_std.data(), gamma.data(), training, dx.data(), dgamma.data(),
                                     dbeta.data()});
        });
      }
    }
    compare(elements, cols, 1e-5, root * spread, [&](const Kernels& table, Guarded<float>& dgamma) {
      Guarded<float> dx(r * cols), dbeta(cols);
      table.batch_norm_backward({x.data(), dy.data(), r, cols, mean.data(), inverse_std.data(), gamma.data(), true,
                                 dx.data(), dgamma.data(), dbeta.data()});
    });
    compare(elements, cols, 1e-5, root, [&](const Kernels& table, Guarded<float>& dbeta) {
      Guarded<float> dx(r * cols), dgamma(cols);
      table.batch_norm_backward({x.data(), dy.data(), r, cols, mean.data(), inverse_std.data(), gamma.data(), true,
                                 dx.data(), dgamma.data(), dbeta.data()});
    });
  }
}

TEST_CASE("The fused kernels around batch norm equal the chain that they stand for", "[kernels][batch_norm]") {
  std::mt19937 rng(test_seed("fused batch norm"));
  for (const auto& [rows, cols] : row_shapes(rng)) {
    const int64_t r = rows, c = cols, count = r * c;
    const Random x(count, rng, 3, 2), dy(count, rng), residual(count, rng);
    const Random gamma(c, rng), beta(c, rng), mean(c, rng, 3, 1), inverse_std(c, rng, 1, 0.1f);
    for_each_table({.elements = count}, [&](const Kernels& table) {
      if (!table.batch_norm_act) return;
      REQUIRE(table.batch_norm_act_backward);
      for (const float ceiling : {-1.0f, 0.0f, 1.5f}) {
        const bool relu = ceiling >= 0;
        for (const bool add : {false, true}) {
          const bool training = ceiling != 0;
          INFO(r << "x" << c << (relu ? " relu " : "") << ceiling << (add ? " add" : ""));
          NormResult chain(r, c);
          table.batch_norm_apply(
              {x.data(), r, c, mean.data(), inverse_std.data(), gamma.data(), beta.data(), chain.y.data()});
          if (add) table.add({chain.y.data(), residual.data(), count, chain.y.data()});
          if (relu) table.relu({chain.y.data(), count, chain.y.data(), chain.mask.data(), ceiling});
          table.stats({chain.y.data(), count, &chain.forward});
          std::memcpy(chain.dresidual.data(), dy.data(), static_cast<size_t>(count) * sizeof(float));
          if (relu) table.relu_backward({dy.data(), chain.mask.data(), count, chain.dresidual.data()});
          table.batch_norm_backward({x.data(), chain.dresidual.data(), r, c, mean.data(), inverse_std.data(),
                                     gamma.data(), training, chain.dx.data(), chain.dgamma.data(), chain.dbeta.data()});
          table.stats({chain.dx.data(), count, &chain.backward});
          for (const int threads : {1, 3}) {
            const Threads scope(threads);
            for (const bool in_place : {false, true}) {
              NormResult fused(r, c);
              float* y = fused.y.data();
              const auto copy = [count](float* to, const Random& from) {
                std::memcpy(to, from.data(), static_cast<size_t>(count) * sizeof(float));
                return to;
              };
              table.batch_norm_act({.x = in_place && !add ? copy(y, x) : x.data(),
                                    .rows = r,
                                    .c = c,
                                    .mean = mean.data(),
                                    .inverse_std = inverse_std.data(),
                                    .gamma = gamma.data(),
                                    .beta = beta.data(),
                                    .residual = !add       ? nullptr
                                                : in_place ? copy(y, residual)
                                                           : residual.data(),
                                    .relu = relu,
                                    .y = y,
                                    .mask = relu ? fused.mask.data() : nullptr,
                                    .stats = &fused.forward,
                                    .ceiling = std::max(ceiling, 0.0f)});
              // dy may be where dresidual goes, or, without one, where dx goes.
              float* dresidual = add ? fused.dresidual.data() : nullptr;
              table.batch_norm_act_backward({.x = x.data(),
                                             .dy = in_place ? copy(add ? dresidual : fused.dx.data(), dy) : dy.data(),
                                             .rows = r,
                                             .c = c,
                                             .mean = mean.data(),
                                             .inverse_std = inverse_std.data(),
                                             .gamma = gamma.data(),
                                             .training = training,
                                             .mask = relu ? fused.mask.data() : nullptr,
                                             .dresidual = dresidual,
                                             .dx = fused.dx.data(),
                                             .dgamma = fused.dgamma.data(),
                                             .dbeta = fused.dbeta.data(),
                                             .stats = &fused.backward});
              if (!add)
                std::memcpy(fused.dresidual.data(), chain.dresidual.data(), sizeof(float) * static_cast<size_t>(count));
              fused.require_equal(chain);
            }
          }
        }
      }
    });
  }
}

TEST_CASE("The variance keeps its digits when the mean is far from 0", "[kernels][batch_norm]") {
  std::mt19937 rng(test_seed("variance"));
  const Random x(5000 * 20, rng, 100, 1);
  Guarded<double> exact_mean(20), exact(20), wide(x.size());
  for (int64_t i = 0; i < x.size(); ++i) wide[i] = static_cast<double>(x[i]);
  ref::batch_norm_stats(wide.data(), 5000, 20, exact_mean.data(), exact.data());
  for_each_table({.elements = x.size()}, [&](const Kernels& table) {
    Guarded<float> mean(20), variance(20);
    table.batch_norm_stats({x.data(), 5000, 20, mean.data(), variance.data()});
    for (int64_t c = 0; c < 20; ++c) {
      CHECK(std::fabs(static_cast<double>(variance[c]) / exact[c] - 1) < 1e-5);
      CHECK(std::fabs(static_cast<double>(mean[c]) / exact_mean[c] - 1) < 1e-6);
    }
  });
}

TEST_CASE("batch_norm_finish does what it says", "[kernels][batch_norm]") {
  for_each_table({}, [](const Kernels& table) {
    Guarded<float> mean(3), variance(3), running_mean(3, 2), running_variance(3, 4), scale(3);
    for (int64_t c = 0; c < 3; ++c) {
      mean[c] = static_cast<float>(c) - 1;
      variance[c] = 0.5f * static_cast<float>(c);
    }
    for (const bool training : {false, true}) {
      table.batch_norm_finish({.mean = mean.data(),
                               .variance = variance.data(),
                               .c = 3,
                               .eps = 1e-5f,
                               .inverse_std = scale.data(),
                               .running_mean = training ? running_mean.data() : nullptr,
                               .running_variance = training ? running_variance.data() : nullptr,
                               .momentum = 0.1f,
                               .variance_factor = 1.25f});
      for (int64_t c = 0; c < 3; ++c) {
        CHECK(scale[c] == Approx(1 / std::sqrt(variance[c] + 1e-5)));
        CHECK(running_mean[c] == Approx(training ? 0.9 * 2 + 0.1 * mean[c] : 2));
        CHECK(running_variance[c] == Approx(training ? 0.9 * 4 + 0.1 * 1.25 * variance[c] : 4));
      }
    }
  });
}

}  // namespace luq::test
