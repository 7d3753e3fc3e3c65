// Float kernels: every table against ref, within bounds that follow from float32, and the same for any threads.

#include <cmath>
#include <set>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/ref/float_ops.h"
#include "tests/kernels/harness.h"

namespace luq::test {
namespace {

using namespace luq::kernels;

// Normally distributed values.
struct Random : Guarded<float> {
  Random(int64_t count, std::mt19937& rng, float mean = 0, float std = 1) : Guarded<float>(count) {
    std::normal_distribution<float> distribution(mean, std);
    for (int64_t i = 0; i < count; ++i) data()[i] = distribution(rng);
  }
};

// |a - b| <= tolerance * magnitude everywhere; magnitude: of the terms that were added.
void require_close(const Guarded<float>& a, const Guarded<float>& b, double tolerance, double magnitude) {
  for (int64_t i = 0; i < a.size(); ++i) {
    INFO("element " << i << ": " << a[i] << " and " << b[i]);
    REQUIRE(std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])) <= tolerance * magnitude);
  }
}

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

// Runs `run(table, output)` for ref and for every table with 1, 2 and 3 threads: close to ref, the same for all
// threads.
void compare(const Work& work, int64_t count, double tolerance, double magnitude,
             const std::function<void(const Kernels&, Guarded<float>&)>& run) {
  Guarded<float> expected(count);
  run(cpu_kernel_tables().front().table, expected);
  for_each_table(work, [&](const Kernels& table) {
    Guarded<float> one(count, NAN);
    {
      const Threads scope(1);
      run(table, one);
    }
    REQUIRE(one.intact());
    require_close(one, expected, tolerance, magnitude);
    for (const int threads : {2, 3}) {
      const Threads scope(threads);
      Guarded<float> more(count, NAN);
      run(table, more);
      INFO(threads << " threads");
      REQUIRE(more.first_difference(one) == -1);
    }
  });
}

std::vector<std::pair<int64_t, int64_t>> row_shapes(std::mt19937& rng) {
  std::vector<std::pair<int64_t, int64_t>> shapes{{1, 1},    {2, 1},    {3, 16},   {255, 17}, {256, 16},
                                                  {257, 15}, {1000, 3}, {5, 1000}, {4097, 8}, {700, 64},
                                                  {64, 512}, {33, 31},  {70, 264}};
  for (int i = 0; i < 10; ++i) {
    shapes.emplace_back(1 + static_cast<int64_t>(rng() % 600), 1 + static_cast<int64_t>(rng() % 100));
  }
  return shapes;
}

std::vector<ConvShape> conv_shapes(std::mt19937& rng) {
  std::vector<ConvShape> shapes{
      {.n = 5, .h = 9, .w = 8, .c = 3, .o = 16, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
      {.n = 20, .h = 14, .w = 14, .c = 16, .o = 16, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
      {.n = 17, .h = 7, .w = 7, .c = 8, .o = 24, .kh = 1, .kw = 1, .stride_h = 2, .stride_w = 2},
      {.n = 3,
       .h = 16,
       .w = 15,
       .c = 3,
       .o = 8,
       .kh = 7,
       .kw = 7,
       .stride_h = 2,
       .stride_w = 2,
       .pad_h = 3,
       .pad_w = 3},
      {.n = 2,
       .h = 9,
       .w = 9,
       .c = 4,
       .o = 6,
       .kh = 3,
       .kw = 2,
       .pad_h = 2,
       .pad_w = 1,
       .dilation_h = 2,
       .dilation_w = 3},
      {.n = 18, .h = 6, .w = 5, .c = 12, .o = 8, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 4},
      {.n = 2, .h = 8, .w = 8, .c = 16, .o = 16, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 16},
      {.n = 4, .h = 5, .w = 5, .c = 20, .o = 9, .kh = 1, .kw = 1},
      {.n = 129, .c = 64, .o = 10},
      {.n = 3, .c = 5, .o = 67},
      {.n = 1, .c = 1, .o = 1},
      {.n = 0, .h = 4, .w = 4, .c = 8, .o = 8},
      {.n = 0, .h = 4, .w = 4, .c = 8, .o = 8, .groups = 8},
      {.n = 4, .h = 12, .w = 13, .c = 16, .o = 20, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
      {.n = 1, .h = 8, .w = 11, .c = 5, .o = 9, .kh = 2, .kw = 3, .stride_h = 3, .stride_w = 2, .pad_h = 1, .pad_w = 4},
      {.n = 3, .h = 12, .w = 12, .c = 24, .o = 24, .kh = 3, .kw = 3, .stride_h = 2, .stride_w = 2, .groups = 24},
      {.n = 1, .h = 5, .w = 6, .c = 3, .o = 6, .kh = 3, .kw = 1, .dilation_h = 2, .groups = 3},
      {.n = 2, .h = 5, .w = 5, .c = 40, .o = 34, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 2},
      {.n = 1, .h = 4, .w = 4, .c = 2, .o = 48, .kh = 3, .kw = 3, .groups = 2},
  };
  for (int i = 0; i < 8; ++i) {
    const auto draw = [&](int64_t most) { return 1 + static_cast<int64_t>(rng() % static_cast<uint64_t>(most)); };
    shapes.push_back({.n = draw(20),
                      .h = 5 + draw(6),
                      .w = 5 + draw(6),
                      .c = draw(20),
                      .o = draw(20),
                      .kh = draw(3),
                      .kw = draw(3),
                      .stride_h = draw(2),
                      .stride_w = draw(2),
                      .pad_h = draw(2) - 1,
                      .pad_w = draw(2) - 1});
  }
  return shapes;
}

}  // namespace

TEST_CASE("Float convolutions equal ref in every table", "[kernels][conv]") {
  std::mt19937 rng(test_seed("float conv"));
  for (const ConvShape& s : conv_shapes(rng)) {
    INFO("n " << s.n << " h " << s.h << " w " << s.w << " c " << s.c << " o " << s.o << " k " << s.kh << "x" << s.kw
              << " stride " << s.stride_h << " pad " << s.pad_h << " groups " << s.groups);
    const Work macs{.multiply_adds = s.macs()};
    const Random x(s.x_size(), rng), w(s.w_size(), rng);
    const Random dy(s.y_size(), rng), bias(s.o, rng);
    const double terms = static_cast<double>(s.kh * s.kw * s.c_group()),
                 outputs = static_cast<double>(s.kh * s.kw * s.o_group());
    const double pixels = static_cast<double>(s.n * s.oh() * s.ow());
    // Random signs: sums grow like the square root, rounding errors like a few of its ulps.
    constexpr double kTolerance = 1e-5;
    for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
      compare(macs, s.y_size(), kTolerance, std::sqrt(terms) + 1, [&](const Kernels& table, Guarded<float>& y) {
        table.conv_forward({s, x.data(), w.data(), b, y.data()});
      });
    }
    compare(macs, s.x_size(), kTolerance, std::sqrt(outputs) + 1, [&](const Kernels& table, Guarded<float>& dx) {
      table.conv_backward_data({s, dy.data(), w.data(), dx.data()});
    });
    compare(macs, s.w_size(), kTolerance, std::sqrt(pixels) + 1, [&](const Kernels& table, Guarded<float>& dw) {
      table.conv_backward_weight({s, dy.data(), x.data(), dw.data()});
    });
  }
}

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

TEST_CASE("Pooling equals ref in every table", "[kernels][pool]") {
  std::mt19937 rng(test_seed("pool"));
  for (const PoolShape& s :
       {PoolShape{2, 8, 9, 16, 2, 2, 2, 2, 0, 0, false}, PoolShape{3, 7, 7, 5, 3, 3, 2, 2, 1, 1, false},
        PoolShape{1, 6, 5, 33, 3, 2, 2, 1, 1, 1, true}, PoolShape{2, 5, 5, 1, 5, 5, 1, 1, 0, 0, false},
        PoolShape{20, 14, 14, 17, 3, 3, 2, 2, 0, 0, true}, PoolShape{1, 9, 8, 8, 2, 3, 3, 4, 0, 0, false},
        PoolShape{0, 5, 5, 8, 3, 3, 2, 2, 1, 1, false}, PoolShape{2, 7, 6, 24, 3, 3, 2, 2, 1, 1, true}}) {
    INFO(s.h << "x" << s.w << "x" << s.c << " window " << s.kh << "x" << s.kw);
    const int64_t in = s.n * s.h * s.w * s.c, out = s.n * s.oh() * s.ow() * s.c;
    const Work elements{.elements = in};
    Random x(in, rng);
    for (int64_t i = 0; i < in; i += 7) x[i] = 0.5f;  // ties
    for (int64_t i = 3; i < in; i += 41) x[i] = -INFINITY;
    if (in > 0) x[in / 2] = NAN;
    const Random dy(out, rng);
    Guarded<float> expected(out);
    Guarded<int32_t> expected_index(out);
    ref::max_pool<float>(s, x.data(), expected.data(), expected_index.data());
    for_each_table({.elements = in}, [&](const Kernels& table) {
      Guarded<float> y(out), plain(out);
      Guarded<int32_t> index(out);
      table.max_pool({s, x.data(), y.data(), index.data()});
      table.max_pool({s, x.data(), plain.data(), nullptr});
      REQUIRE(index.first_difference(expected_index) == -1);
      REQUIRE(y.first_difference(expected) == -1);
      REQUIRE(plain.first_difference(expected) == -1);
    });
    for (int64_t i = 0; i < in; ++i) x[i] = std::isfinite(x[i]) ? x[i] : 0.0f;
    compare(elements, in, 1e-6, 10, [&](const Kernels& table, Guarded<float>& dx) {
      table.max_pool_backward({s, dy.data(), expected_index.data(), dx.data()});
    });
    for (const bool include_pad : {false, true}) {
      compare(elements, out, 1e-6, 10, [&](const Kernels& table, Guarded<float>& y) {
        table.avg_pool({s, x.data(), y.data(), include_pad});
      });
      compare(elements, in, 1e-6, 10, [&](const Kernels& table, Guarded<float>& dx) {
        table.avg_pool_backward({s, dy.data(), dx.data(), include_pad});
      });
    }
    for (const int64_t size : {1, 3, 7}) {
      const int64_t columns = size + 1, pooled = s.n * size * columns * s.c;
      const Random gradient(pooled, rng);
      compare(elements, pooled, 1e-6, 10, [&](const Kernels& table, Guarded<float>& y) {
        table.adaptive_avg_pool({s.n, s.h, s.w, s.c, size, columns, x.data(), y.data()});
      });
      compare(elements, in, 1e-6, 10, [&](const Kernels& table, Guarded<float>& dx) {
        table.adaptive_avg_pool_backward({s.n, s.h, s.w, s.c, size, columns, gradient.data(), dx.data()});
      });
    }
  }
}

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

TEST_CASE("Peak loops count what they do", "[kernels][peak]") {
  for_each_cpu_table([&](const Kernels& table) {
    for (const auto entry : {&Kernels::peak_int8, &Kernels::peak_float32, &Kernels::peak_bfloat16}) {
      if (!(table.*entry)) continue;
      double few = 0, many = 0;
      (table.*entry)({.iterations = 1, .operations = &few});
      (table.*entry)({.iterations = 1000, .operations = &many});
      CHECK(few >= 12 * 16);  // twelve instructions of at least 8 lanes
      CHECK(many == 1000 * few);
    }
    if (!table.peak_read) return;
    Guarded<uint8_t> memory(8192);
    for (int64_t i = 0; i < memory.size(); i += 64) memory[i] = i == 4096 ? 5 : 0;
    uint8_t all = 0;
    table.peak_read({.x = memory.data(), .bytes = memory.size(), .all = &all});
    CHECK(all == 5);
  });
}

TEST_CASE("batch_norm_finish, moving_average and copy_rows do what they say", "[kernels][float]") {
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

TEST_CASE("Every entry of the contract has a case in these files", "[kernels]") {
  const std::set<std::string> tested{"stats",
                                     "stats_many",
                                     "encode_int",
                                     "encode_fp4",
                                     "decode",  // quantize_test.cc
                                     "qconv_forward",
                                     "qconv_forward_moments",
                                     "qconv_backward_data",
                                     "qconv_backward_weight",  // qconv_test.cc
                                     "conv_forward",
                                     "conv_backward_data",
                                     "conv_backward_weight",
                                     "column_sum",
                                     "batch_norm_stats",
                                     "batch_norm_apply",
                                     "batch_norm_backward",
                                     "batch_norm_act",
                                     "batch_norm_act_backward",
                                     "peak_int8",
                                     "peak_float32",
                                     "peak_bfloat16",
                                     "peak_read",
                                     "random_bits",
                                     "convert",  // bfloat16_test.cc
                                     "batch_norm_finish",
                                     "moving_average",
                                     "copy_rows",
                                     "relu",
                                     "relu_backward",
                                     "add",
                                     "dropout",
                                     "max_pool",
                                     "max_pool_backward",
                                     "avg_pool",
                                     "avg_pool_backward",
                                     "adaptive_avg_pool",
                                     "adaptive_avg_pool_backward",
                                     "cross_entropy",
                                     "sgd",
                                     "adamw",
                                     "resize",
                                     "finish_images",  // image_test.cc
                                     "layer_norm",
                                     "layer_norm_backward",
                                     "gelu",
                                     "gelu_backward",
                                     "attention",
                                     "attention_backward"};  // transformer_test.cc
  for (const auto& [entry, implementation] : describe(kernels_for({}))) {
    INFO(entry);
    CHECK((implementation == "-" || tested.count(entry) == 1));
  }
}

}  // namespace luq::test
