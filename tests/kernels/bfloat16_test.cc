// Kernels on bfloat16: what they read is what a float32 operand of the same values would give them, and what they write
// is the float32 result, rounded once.

#include <cmath>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "tests/kernels/harness.h"
#include "tests/kernels/test_formats.h"

namespace luq::test {
namespace {

using namespace luq::kernels;

struct Pair {  // the same values in both types
  Guarded<float> wide;
  Guarded<BFloat16> narrow;

  explicit Pair(int64_t count) : wide(count), narrow(count) {}
  Pair(int64_t count, std::mt19937& rng, float mean = 0, float std = 1) : Pair(count) {
    std::normal_distribution<float> distribution(mean, std);
    for (int64_t i = 0; i < count; ++i) set(i, distribution(rng));
  }
  void set(int64_t i, float value) {
    narrow[i] = to_bfloat16(value);
    wide[i] = to_float(narrow[i]);
  }
};

// Every result is `expected` to within two units of bfloat16's last place, or within `absolute`.
void require_rounded(const Guarded<BFloat16>& result, const Guarded<float>& expected, double absolute) {
  REQUIRE(result.intact());
  for (int64_t i = 0; i < result.size(); ++i) {
    const double got = to_float(result[i]), want = expected[i];
    INFO("element " << i << ": " << got << " and " << want);
    REQUIRE(std::fabs(got - want) <= std::fabs(want) * 0x1p-7 + absolute);
  }
}

const std::vector<int64_t> counts{0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 4095, 4097, 40001};

}  // namespace

TEST_CASE("bfloat16 rounds to nearest, ties to even", "[kernels][bfloat16]") {
  CHECK(to_float(to_bfloat16(1.0f + 0x1p-8f)) == 1.0f);                // a tie, down to even
  CHECK(to_float(to_bfloat16(1.0f + 3 * 0x1p-8f)) == 1.0f + 0x1p-6f);  // a tie, up to even
  CHECK(to_float(to_bfloat16(1.0f + 0x1.02p-8f)) == 1.0f + 0x1p-7f);
  CHECK(to_float(to_bfloat16(0x1.ffp127f)) == INFINITY);
  CHECK(std::isnan(to_float(to_bfloat16(NAN))));
  CHECK(std::isnan(to_float(to_bfloat16(bits_float(0x7f800001u)))));
  CHECK(std::signbit(to_float(to_bfloat16(-0.0f))));
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const BFloat16 x{static_cast<uint16_t>(bits)};
    if (!std::isnan(to_float(x))) REQUIRE(to_bfloat16(to_float(x)).bits == bits);
  }
}

TEST_CASE("convert is the same in every table", "[kernels][bfloat16]") {
  std::mt19937 rng(test_seed("convert"));
  for (const int64_t count : counts) {
    Guarded<float> x(count);
    for (int64_t i = 0; i < count; ++i) x[i] = bits_float(static_cast<uint32_t>(rng()));  // any bits, NaN among them
    for_each_table({.elements = count}, [&](const Kernels& table) {
      Guarded<BFloat16> narrow(count);
      Guarded<float> wide(count);
      table.convert({.x = x.data(), .count = count, .y = narrow.data()});
      table.convert({.x = narrow.data(), .count = count, .y = wide.data()});
      REQUIRE(narrow.intact());
      for (int64_t i = 0; i < count; ++i) {
        REQUIRE(narrow[i].bits == to_bfloat16(x[i]).bits);
        REQUIRE(float_bits(wide[i]) == float_bits(to_float(narrow[i])));
      }
    });
  }
}

TEST_CASE("Statistics and codes of bfloat16 are those of the same values in float32", "[kernels][bfloat16]") {
  std::mt19937 rng(test_seed("quantise bfloat16"));
  for (const int64_t count : counts) {
    for (const int64_t cols : {count, count % 3 == 0 ? count / 3 : count}) {
      const Pair x(count, rng);
      const int64_t rows = cols > 0 ? count / cols : 1;
      const int64_t bytes = rows * packed_row_bytes(cols);
      for_each_table({.elements = count}, [&](const Kernels& table) {
        Stats wide, narrow;
        table.stats({.x = x.wide.data(), .count = count, .stats = &wide});
        table.stats({.x = x.narrow.data(), .count = count, .stats = &narrow});
        REQUIRE(wide.sum_abs == narrow.sum_abs);
        REQUIRE(wide.sum_sq == narrow.sum_sq);
        REQUIRE(wide.nonzero == narrow.nonzero);
        REQUIRE(wide.abs_bits_max == narrow.abs_bits_max);
        for (const Rounding rounding : {Rounding::nearest, Rounding::stochastic}) {
          for (const FormatRow& format : kTestFormats) {
            Guarded<uint8_t> expected(bytes), codes(bytes);
            const auto run = [&](ConstFloats from, Guarded<uint8_t>& to) {
              const float inverse = 0.3f * format.grid.highest();
              table.encode({from, rows, cols, format.grid, inverse, rounding, {1, 2, 3, 4}, to.data()});
            };
            run(x.wide.data(), expected);
            run(x.narrow.data(), codes);
            REQUIRE(codes.intact());
            REQUIRE(codes.first_difference(expected) == -1);
          }
        }
      });
    }
  }
}

TEST_CASE("Float convolutions on bfloat16 are near those of the same values", "[kernels][bfloat16]") {
  std::mt19937 rng(test_seed("conv bfloat16"));
  for (const ConvShape& s :
       {ConvShape{.n = 5, .h = 9, .w = 8, .c = 3, .o = 16, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
        ConvShape{.n = 40, .c = 33, .o = 50},
        ConvShape{.n = 18, .h = 6, .w = 5, .c = 12, .o = 8, .kh = 3, .kw = 3, .groups = 4},
        ConvShape{.n = 17, .h = 8, .w = 8, .c = 16, .o = 16, .kh = 1, .kw = 1, .stride_h = 2, .stride_w = 2}}) {
    const Pair x(s.x_size(), rng), dy(s.y_size(), rng), bias(s.o, rng);
    Pair w(s.w_size());  // and masters, which round to them
    Guarded<float> masters(s.w_size());
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < masters.size(); ++i) w.set(i, masters[i] = normal(rng));
    const Kernels ref = cpu_kernel_tables().front().table;
    Guarded<float> y(s.y_size()), dx(s.x_size()), dw(s.w_size());
    ref.conv_forward({s, x.wide.data(), w.wide.data(), bias.wide.data(), y.data()});
    ref.conv_backward_data({s, dy.wide.data(), w.wide.data(), dx.data()});
    ref.conv_backward_weight({s, dy.wide.data(), x.wide.data(), dw.data()});
    const auto check = [&](const Kernels& table) {
      for (const int threads : {1, 3}) {
        const Threads scope(threads);
        Guarded<BFloat16> narrow_y(s.y_size()), narrow_dx(s.x_size());
        Guarded<float> wide_dw(s.w_size());
        table.conv_forward({s, x.narrow.data(), masters.data(), bias.wide.data(), narrow_y.data()});
        table.conv_backward_data({s, dy.narrow.data(), masters.data(), narrow_dx.data()});
        table.conv_backward_weight({s, dy.narrow.data(), x.narrow.data(), wide_dw.data()});
        // cuDNN may round to bfloat16 on the way: sums before the bias, and dw.
        const bool by_library = std::string_view(table.conv_backward_weight.implementation) == "cudnn";
        REQUIRE(narrow_y.intact());
        for (int64_t i = 0; i < y.size(); ++i) {
          const double sum = static_cast<double>(y[i]) - static_cast<double>(bias.wide[i % s.o]);
          INFO("y " << i << ": " << to_float(narrow_y[i]) << " and " << y[i]);
          REQUIRE(std::fabs(static_cast<double>(to_float(narrow_y[i])) - static_cast<double>(y[i])) <=
                  std::fabs(static_cast<double>(y[i])) * 0x1p-7 + 1e-4 + (by_library ? std::fabs(sum) * 0x1p-8 : 0));
        }
        require_rounded(narrow_dx, dx, 1e-4);
        for (int64_t i = 0; i < dw.size(); ++i) {
          REQUIRE(std::fabs(wide_dw[i] - dw[i]) < 1e-3 + (by_library ? 0x1p-8 * std::fabs(dw[i]) : 0));
        }
      }
    };
    for_each_table({.multiply_adds = s.macs()}, check);
    if (__builtin_cpu_supports("avx512bw")) {  // whichever of the two the tables prefer on this CPU
      Kernels native = cpu_kernel_tables().back().table, widened = native;
      add_onednn_bfloat16(native);
      add_onednn(widened);
      check(native);
      check(widened);
    }
  }
}

TEST_CASE("Batch norm on bfloat16", "[kernels][bfloat16]") {
  std::mt19937 rng(test_seed("batch norm bfloat16"));
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{{3, 1}, {257, 15}, {700, 64}, {64, 300}}) {
    const int64_t r = rows, c = cols, count = r * c;
    const Pair x(count, rng, 3, 2), dy(count, rng), residual(count, rng);
    const Pair gamma(c, rng), beta(c, rng);
    const Kernels ref = cpu_kernel_tables().front().table;
    Guarded<float> mean(c), variance(c), inverse_std(c);
    ref.batch_norm_stats({x.wide.data(), r, c, mean.data(), variance.data()});
    for (int64_t i = 0; i < c; ++i) inverse_std[i] = 1.0f / std::sqrt(variance[i] + 1e-5f);
    for_each_table({.elements = count}, [&](const Kernels& table) {
      Guarded<float> own_mean(c), own_variance(c), dgamma(c), dbeta(c), ref_dgamma(c), ref_dbeta(c);
      table.batch_norm_stats({x.narrow.data(), r, c, own_mean.data(), own_variance.data()});
      for (int64_t i = 0; i < c; ++i) {
        REQUIRE(std::fabs(own_mean[i] - mean[i]) < 1e-4);
        REQUIRE(std::fabs(own_variance[i] - variance[i]) < 1e-3 * variance[i] + 1e-5);
      }
      Guarded<float> y(count), dx(count);
      Guarded<BFloat16> narrow_y(count), narrow_dx(count);
      ref.batch_norm_apply(
          {x.wide.data(), r, c, mean.data(), inverse_std.data(), gamma.wide.data(), beta.wide.data(), y.data()});
      table.batch_norm_apply({x.narrow.data(), r, c, mean.data(), inverse_std.data(), gamma.wide.data(),
                              beta.wide.data(), narrow_y.data()});
      require_rounded(narrow_y, y, 1e-4);
      ref.batch_norm_backward({x.wide.data(), dy.wide.data(), r, c, mean.data(), inverse_std.data(), gamma.wide.data(),
                               true, dx.data(), ref_dgamma.data(), ref_dbeta.data()});
      table.batch_norm_backward({x.narrow.data(), dy.narrow.data(), r, c, mean.data(), inverse_std.data(),
                                 gamma.wide.data(), true, narrow_dx.data(), dgamma.data(), dbeta.data()});
      require_rounded(narrow_dx, dx, 1e-3);
      if (!table.batch_norm_act) return;
      // The fused kernels: in one rounding what the chain does in several; the statistics are those of what is stored.
      for (const auto& [threads, ceiling] : {std::pair{1, 0.0f}, {3, 0.0f}, {1, 1.5f}, {3, 1.5f}}) {
        const Threads scope(threads);
        Guarded<uint8_t> mask((count + 7) / 8);
        Guarded<BFloat16> dresidual(count);
        Stats stats, expected;
        table.batch_norm_act({.x = x.narrow.data(),
                              .rows = r,
                              .c = c,
                              .mean = mean.data(),
                              .inverse_std = inverse_std.data(),
                              .gamma = gamma.wide.data(),
                              .beta = beta.wide.data(),
                              .residual = residual.narrow.data(),
                              .relu = true,
                              .y = narrow_y.data(),
                              .mask = mask.data(),
                              .stats = &stats,
                              .ceiling = ceiling});
        Guarded<float> sum(count);
        for (int64_t i = 0; i < count; ++i) {
          sum[i] = std::max(y[i] + residual.wide[i], 0.0f);
          if (ceiling > 0) sum[i] = std::min(sum[i], ceiling);
          const float stored = to_float(narrow_y[i]);
          REQUIRE((mask[i / 8] >> (i % 8) & 1) == (stored == 0 || stored == ceiling ? 0 : 1));
        }
        require_rounded(narrow_y, sum, 1e-4);
        table.stats({.x = narrow_y.data(), .count = count, .stats = &expected});
        REQUIRE(stats.sum_abs == expected.sum_abs);
        REQUIRE(stats.sum_sq == expected.sum_sq);
        REQUIRE(stats.nonzero == expected.nonzero);
        table.batch_norm_act_backward({.x = x.narrow.data(),
                                       .dy = dy.narrow.data(),
                                       .rows = r,
                                       .c = c,
                                       .mean = mean.data(),
                                       .inverse_std = inverse_std.data(),
                                       .gamma = gamma.wide.data(),
                                       .training = true,
                                       .mask = mask.data(),
                                       .dresidual = dresidual.data(),
                                       .dx = narrow_dx.data(),
                                       .dgamma = dgamma.data(),
                                       .dbeta = dbeta.data(),
                                       .stats = &stats});
        for (int64_t i = 0; i < count; ++i) {
          const bool on = (mask[i / 8] >> (i % 8) & 1) != 0;
          REQUIRE(dresidual[i].bits == (on ? dy.narrow[i].bits : 0));
          sum[i] = on ? dy.wide[i] : 0.0f;
        }
        ref.batch_norm_backward({x.wide.data(), sum.data(), r, c, mean.data(), inverse_std.data(), gamma.wide.data(),
                                 true, dx.data(), ref_dgamma.data(), ref_dbeta.data()});
        require_rounded(narrow_dx, dx, 1e-3);
        table.stats({.x = narrow_dx.data(), .count = count, .stats = &expected});
        REQUIRE(stats.sum_abs == expected.sum_abs);
        REQUIRE(stats.abs_bits_max == expected.abs_bits_max);
      }
    });
  }
}

TEST_CASE("Pointwise kernels and pooling on bfloat16", "[kernels][bfloat16]") {
  std::mt19937 rng(test_seed("pointwise bfloat16"));
  for (const int64_t count : counts) {
    const Pair a(count, rng), b(count, rng);
    Pair clippable(count, rng);
    for (int64_t i = 0; i < count; i += 7)
      clippable.set(i, i % 2 == 0 ? 0.75f : 0.75f + (i % 3 == 0 ? 1 : -1) * 0x1p-8f);
    if (count > 16) {
      clippable.set(5, NAN), clippable.set(6, -NAN), clippable.set(8, -0.0f);
      clippable.set(9, INFINITY), clippable.set(10, -INFINITY);
    }
    for_each_table({.elements = count}, [&](const Kernels& table) {
      Guarded<BFloat16> y(count), dx(count), sum(count);
      Guarded<uint8_t> mask((count + 7) / 8);
      table.relu({a.narrow.data(), count, y.data(), mask.data()});
      table.relu_backward({b.narrow.data(), mask.data(), count, dx.data()});
      constexpr float kCeiling = 0.75f;
      Guarded<BFloat16> clipped(count), clipped_dx(count);
      Guarded<uint8_t> clipped_mask((count + 7) / 8, 0xff);
      table.relu({clippable.narrow.data(), count, clipped.data(), clipped_mask.data(), kCeiling});
      table.relu_backward({b.narrow.data(), clipped_mask.data(), count, clipped_dx.data()});
      table.add({a.narrow.data(), b.narrow.data(), count, sum.data()});
      for (int64_t i = 0; i < count; ++i) {
        REQUIRE(to_float(y[i]) == std::max(a.wide[i], 0.0f));
        REQUIRE(to_float(dx[i]) == (a.wide[i] > 0 ? b.wide[i] : 0.0f));
        const float value = clippable.wide[i];
        if (std::isnan(value)) {
          REQUIRE(std::isnan(to_float(clipped[i])));
        } else {
          REQUIRE(to_float(clipped[i]) == std::min(std::max(value, 0.0f), kCeiling));
        }
        REQUIRE(to_float(clipped_dx[i]) == (value <= 0 || value >= kCeiling ? 0.0f : b.wide[i]));
        REQUIRE(sum[i].bits == to_bfloat16(a.wide[i] + b.wide[i]).bits);
      }
    });
  }
  for (const PoolShape& s :
       {PoolShape{2, 8, 9, 16, 2, 2, 2, 2, 0, 0, false}, PoolShape{3, 7, 7, 5, 3, 3, 2, 2, 1, 1, false},
        PoolShape{1, 6, 5, 33, 3, 2, 2, 1, 1, 1, true}}) {
    const int64_t in = s.n * s.h * s.w * s.c, out = s.n * s.oh() * s.ow() * s.c;
    const Pair x(in, rng), dy(out, rng);
    const Kernels ref = cpu_kernel_tables().front().table;
    Guarded<float> y(out), dx(in);
    Guarded<int32_t> index(out);
    ref.max_pool({s, x.wide.data(), y.data(), index.data()});
    ref.max_pool_backward({s, dy.wide.data(), index.data(), dx.data()});
    for_each_table({.elements = in}, [&](const Kernels& table) {
      Guarded<BFloat16> narrow_y(out), narrow_dx(in);
      Guarded<int32_t> own_index(out);
      table.max_pool({s, x.narrow.data(), narrow_y.data(), own_index.data()});
      table.max_pool_backward({s, dy.narrow.data(), own_index.data(), narrow_dx.data()});
      REQUIRE(own_index.first_difference(index) == -1);
      for (int64_t i = 0; i < out; ++i) REQUIRE(to_float(narrow_y[i]) == y[i]);
      require_rounded(narrow_dx, dx, 1e-6);
    });
  }
}

}  // namespace luq::test
