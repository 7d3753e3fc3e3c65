// Layer norm, GELU and attention: every table against ref, on float32 and on the same values in bfloat16, and the same
// for any number of threads.

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <type_traits>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/ref/float_ops.h"
#include "tests/kernels/harness.h"

namespace luq::test {
namespace {

using namespace luq::kernels;

constexpr double kEpsilon = 0x1p-24;  // float32's rounding

void set(float& to, float value) { to = value; }
void set(BFloat16& to, float value) { to = to_bfloat16(value); }
float get(float x) { return x; }
float get(BFloat16 x) { return to_float(x); }

// Normally distributed values that bfloat16 holds, in T.
template <typename T>
struct Values : Guarded<T> {
  explicit Values(int64_t count) : Guarded<T>(count) {}
  Values(int64_t count, std::mt19937& rng, float mean = 0, float std = 1) : Guarded<T>(count) {
    std::normal_distribution<float> distribution(mean, std);
    for (int64_t i = 0; i < count; ++i) set(this->data()[i], to_float(to_bfloat16(distribution(rng))));
  }
  template <typename Other>
  explicit Values(const Values<Other>& other) : Guarded<T>(other.size()) {
    for (int64_t i = 0; i < other.size(); ++i) set(this->data()[i], get(other[i]));
  }
  Values(const Values& other) : Guarded<T>(other.size()) {
    for (int64_t i = 0; i < other.size(); ++i) this->data()[i] = other[i];
  }
};

// |result - expected| <= tolerance, and half a unit of the type's last place for its rounding.
template <typename T>
void require_close(const char* what, const Guarded<T>& result, const Guarded<float>& expected, double tolerance) {
  REQUIRE(result.intact());
  const double rounding = std::is_same_v<T, BFloat16> ? 0x1.02p-8 : 0;
  for (int64_t i = 0; i < result.size(); ++i) {
    const double got = static_cast<double>(get(result[i])), want = static_cast<double>(expected[i]);
    if (std::fabs(got - want) <= tolerance + rounding * std::fabs(want)) continue;
    FAIL(what << " " << i << ": " << got << ", expected " << want << " within " << tolerance);
  }
}

// Calls check(outputs) with what `run(table)` returns for every table, when it is the same with 1, 2 and 3 threads.
template <typename Run, typename Check>
void in_every_table(const Work& work, const Run& run, const Check& check) {
  for_each_table(work, [&](const Kernels& table) {
    const auto at = [&](int threads) {
      const Threads scope(threads);
      return run(table);
    };
    const auto one = at(1);
    for (const int threads : {2, 3}) {
      INFO(threads << " threads");
      REQUIRE(at(threads)->same(*one));
    }
    check(*one);
  });
}

template <typename T>
struct NormOutputs {
  Guarded<T> y, dx;
  Guarded<float> mean, inverse_std, dgamma, dbeta;

  NormOutputs(int64_t rows, int64_t c)
      : y(rows * c), dx(rows * c), mean(rows, NAN), inverse_std(rows, NAN), dgamma(c, NAN), dbeta(c, NAN) {}
  bool same(const NormOutputs& other) const {
    return y.first_difference(other.y) == -1 && dx.first_difference(other.dx) == -1 &&
           mean.first_difference(other.mean) == -1 && inverse_std.first_difference(other.inverse_std) == -1 &&
           dgamma.first_difference(other.dgamma) == -1 && dbeta.first_difference(other.dbeta) == -1;
  }
};

template <typename T>
void test_layer_norm(int64_t rows, int64_t c, std::mt19937& rng) {
  INFO(rows << "x" << c << (std::is_same_v<T, BFloat16> ? " bfloat16" : " float32"));
  constexpr float kEps = 1e-6f;
  const Values<T> x(rows * c, rng, 3, 2), dy(rows * c, rng);
  const Values<float> gamma(c, rng), beta(c, rng), wide_x(x), wide_dy(dy);
  NormOutputs<float> expected(rows, c);
  ref::layer_norm(wide_x.data(), rows, c, gamma.data(), beta.data(), kEps, expected.y.data(), expected.mean.data(),
                  expected.inverse_std.data());
  ref::layer_norm_backward(wide_x.data(), wide_dy.data(), rows, c, expected.mean.data(), expected.inverse_std.data(),
                           gamma.data(), expected.dx.data(), expected.dgamma.data(), expected.dbeta.data());
  double scale = 0;
  for (int64_t i = 0; i < rows; ++i) scale = std::max(scale, static_cast<double>(expected.inverse_std[i]));
  // x is below 12, gamma and dy below 5; the sums over a row round some 10 times, and are divided by its deviation.
  const double xhat = 10 * kEpsilon * 12 * scale, root = std::sqrt(static_cast<double>(rows)) + 1;
  in_every_table(
      {.elements = rows * c},
      [&](const Kernels& table) {
        auto out = std::make_unique<NormOutputs<T>>(rows, c);
        table.layer_norm({x.data(), rows, c, gamma.data(), beta.data(), kEps, out->y.data(), out->mean.data(),
                          out->inverse_std.data()});
        table.layer_norm_backward({x.data(), dy.data(), rows, c, expected.mean.data(), expected.inverse_std.data(),
                                   gamma.data(), out->dx.data(), out->dgamma.data(), out->dbeta.data()});
        NormOutputs<T> in_place(rows, c);
        std::memcpy(in_place.y.data(), x.data(), static_cast<size_t>(rows * c) * sizeof(T));
        table.layer_norm(
            {in_place.y.data(), rows, c, gamma.data(), beta.data(), kEps, in_place.y.data(), nullptr, nullptr});
        REQUIRE(in_place.y.first_difference(out->y) == -1);
        std::memcpy(in_place.dx.data(), dy.data(), static_cast<size_t>(rows * c) * sizeof(T));
        table.layer_norm_backward({x.data(), in_place.dx.data(), rows, c, expected.mean.data(),
                                   expected.inverse_std.data(), gamma.data(), in_place.dx.data(),
                                   in_place.dgamma.data(), in_place.dbeta.data()});
        REQUIRE(in_place.dx.first_difference(out->dx) == -1);
        return out;
      },
      [&](const NormOutputs<T>& out) {
        require_close("mean", out.mean, expected.mean, 10 * kEpsilon * 12);
        require_close("inverse std", out.inverse_std, expected.inverse_std, 10 * kEpsilon * 12 * scale * scale);
        require_close("y", out.y, expected.y, 5 * xhat);
        require_close("dx", out.dx, expected.dx, 25 * scale * (xhat + 10 * kEpsilon) * (1 + 5 * scale * kEpsilon));
        require_close("dgamma", out.dgamma, expected.dgamma, 5 * root * (xhat + 10 * kEpsilon * 5));
        require_close("dbeta", out.dbeta, expected.dbeta, 10 * kEpsilon * 5 * root);
      });
}

template <typename T>
struct AttentionOutputs {
  Guarded<T> y, dqkv;
  Guarded<float> log_sum;

  explicit AttentionOutputs(const AttentionArgs& a)
      : y(a.n * a.tokens * a.heads * a.head_dim), dqkv(3 * y.size()), log_sum(a.n * a.heads * a.tokens, NAN) {}
  bool same(const AttentionOutputs& other) const {
    return y.first_difference(other.y) == -1 && dqkv.first_difference(other.dqkv) == -1 &&
           log_sum.first_difference(other.log_sum) == -1;
  }
};

template <typename T>
void test_attention(const AttentionArgs& shape, float spread, std::mt19937& rng) {
  const int64_t n = shape.n, tokens = shape.tokens, heads = shape.heads, dim = shape.head_dim;
  INFO(n << " images, " << tokens << " tokens, " << heads << " heads of " << dim << ", spread " << spread
         << (std::is_same_v<T, BFloat16> ? " bfloat16" : " float32"));
  AttentionOutputs<float> expected(shape);
  const Values<T> qkv(expected.dqkv.size(), rng, 0, spread), dy(expected.y.size(), rng);
  const Values<float> wide(qkv), wide_dy(dy);
  ref::attention(n, tokens, heads, dim, wide.data(), expected.y.data(), expected.log_sum.data());
  ref::attention_backward(n, tokens, heads, dim, wide.data(), expected.y.data(), expected.log_sum.data(),
                          wide_dy.data(), expected.dqkv.data());
  Values<T> y(expected.y.size());  // that backward reads
  for (int64_t i = 0; i < y.size(); ++i) set(y[i], expected.y[i]);
  if (std::is_same_v<T, BFloat16>) {
    const Values<float> rounded(y);
    ref::attention_backward(n, tokens, heads, dim, wide.data(), rounded.data(), expected.log_sum.data(), wide_dy.data(),
                            expected.dqkv.data());
  }
  // A score is a sum of head_dim products of up to 16 spread^2, over the root of head_dim.
  // Its error is the relative one of a probability.
  const double score = 16 * kEpsilon * spread * spread * 4;
  const double root = std::sqrt(static_cast<double>(dim));
  in_every_table(
      {.multiply_adds = 2 * n * heads * tokens * tokens * dim},
      [&](const Kernels& table) {
        auto out = std::make_unique<AttentionOutputs<T>>(shape);
        table.attention({n, tokens, heads, dim, qkv.data(), out->y.data(), out->log_sum.data()});
        table.attention_backward(
            {n, tokens, heads, dim, qkv.data(), y.data(), expected.log_sum.data(), dy.data(), out->dqkv.data()});
        Guarded<T> without(y.size());
        table.attention({n, tokens, heads, dim, qkv.data(), without.data(), nullptr});
        REQUIRE(without.first_difference(out->y) == -1);
        return out;
      },
      [&](const AttentionOutputs<T>& out) {
        require_close("log_sum", out.log_sum, expected.log_sum, score + 100 * kEpsilon * spread * spread);
        require_close("y", out.y, expected.y, 4 * spread * (score + 8 * kEpsilon));
        require_close("dqkv", out.dqkv, expected.dqkv,
                      16 * spread * spread * std::max(1.0, spread * root) * (score + 8 * kEpsilon));
      });
}

}  // namespace

TEST_CASE("Layer norm equals ref in every table", "[kernels][layer_norm]") {
  std::mt19937 rng(test_seed("layer norm"));
  for (const auto& [rows, c] : std::vector<std::pair<int64_t, int64_t>>{{0, 16},
                                                                        {1, 1},
                                                                        {1, 2},
                                                                        {3, 5},
                                                                        {17, 16},
                                                                        {33, 8},
                                                                        {64, 33},
                                                                        {2, 1000},
                                                                        {1000, 17},
                                                                        {70, 768},
                                                                        {65, 65},
                                                                        {9, 260}}) {
    test_layer_norm<float>(rows, c, rng);
    test_layer_norm<BFloat16>(rows, c, rng);
  }
}

TEST_CASE("GELU is within its bounds in every table", "[kernels][gelu]") {
  std::mt19937 rng(test_seed("gelu"));
  std::uniform_real_distribution<float> distribution(-14, 14);
  const int64_t count = 40003;
  Guarded<float> x(count), dy(count);
  for (int64_t i = 0; i < count; ++i) {
    x[i] = i < 1000 ? std::ldexp(distribution(rng), -static_cast<int>(i % 140)) : distribution(rng);
    dy[i] = distribution(rng);
  }
  const float special[] = {0.0f, -0.0f, 1e30f, -1e30f, INFINITY, -20.0f, 20.0f, 13.0f, -13.1f};
  for (int64_t i = 0; i < 9; ++i) x[i] = special[i];
  for_each_table({.elements = count}, [&](const Kernels& table) {
    for (const int threads : {1, 3}) {
      const Threads scope(threads);
      Guarded<float> y(count), dx(count);
      table.gelu({x.data(), count, y.data()});
      table.gelu_backward({x.data(), dy.data(), count, dx.data()});
      REQUIRE(y.intact());
      REQUIRE(dx.intact());
      for (int64_t i = 0; i < count; ++i) {
        const double value = static_cast<double>(x[i]), gradient = static_cast<double>(dy[i]);
        if (std::isinf(value)) {
          REQUIRE(y[i] == INFINITY);
          continue;
        }
        const double cumulative = 0.5 * std::erfc(-value * std::sqrt(0.5));
        const double density = std::exp(-0.5 * value * value) / std::sqrt(8 * std::atan(1.0));
        INFO(value << ": " << y[i] << " and " << value * cumulative << ", " << dx[i]);
        // Phi within 2.5e-7, and 5e-7 of itself where it is small but for what rounding x^2 / 2 costs.
        const double tail = 5e-7 + value * value * kEpsilon;
        REQUIRE(std::fabs(static_cast<double>(y[i]) - value * cumulative) <=
                std::fabs(value) * std::min(2.5e-7, cumulative * tail + 1e-37) +
                    std::fabs(value * cumulative) * kEpsilon + 0x1p-149);
        REQUIRE(std::fabs(static_cast<double>(dx[i]) - gradient * (cumulative + value * density)) <=
                std::fabs(gradient) * 4e-7);
      }
    }
  });
}

TEST_CASE("GELU of every bfloat16 is ref's, rounded", "[kernels][gelu][bfloat16]") {
  const int64_t count = 65536;
  Guarded<BFloat16> x(count), ones(count);
  for (int64_t i = 0; i < count; ++i) {
    x[i].bits = static_cast<uint16_t>(i);
    ones[i] = to_bfloat16(1.0f);
  }
  const Kernels ref = cpu_kernel_tables().front().table;
  Guarded<BFloat16> y(count), dx(count);
  ref.gelu({x.data(), count, y.data()});
  ref.gelu_backward({x.data(), ones.data(), count, dx.data()});
  for_each_table({.elements = count}, [&](const Kernels& table) {
    Guarded<BFloat16> other_y(count), other_dx(count);
    table.gelu({x.data(), count, other_y.data()});
    table.gelu_backward({x.data(), ones.data(), count, other_dx.data()});
    for (int64_t i = 0; i < count; ++i) {
      const float value = to_float(x[i]);
      if (std::isinf(value)) continue;
      INFO(value << ": " << to_float(other_y[i]) << " and " << to_float(y[i]));
      if (std::isnan(value)) {
        REQUIRE(std::isnan(to_float(other_y[i])));
        REQUIRE(std::isnan(to_float(other_dx[i])));
        continue;
      }
      const auto near = [](BFloat16 a, BFloat16 b, double absolute) {
        const double want = static_cast<double>(to_float(b));
        return std::fabs(static_cast<double>(to_float(a)) - want) <= std::fabs(want) * 0x1p-7 + absolute;
      };
      REQUIRE(near(other_y[i], y[i], 1e-36));
      REQUIRE(near(other_dx[i], dx[i], 4e-7));
    }
  });
}

TEST_CASE("Attention equals ref in every table", "[kernels][attention]") {
  std::mt19937 rng(test_seed("attention"));
  for (const auto& [n, tokens, heads, dim] : std::vector<std::array<int64_t, 4>>{{1, 1, 1, 1},
                                                                                 {2, 5, 3, 4},
                                                                                 {1, 17, 2, 16},
                                                                                 {2, 50, 2, 33},
                                                                                 {1, 49, 1, 8},
                                                                                 {3, 48, 1, 64},
                                                                                 {1, 100, 2, 7},
                                                                                 {1, 197, 2, 64},
                                                                                 {1, 17, 2, 24},
                                                                                 {1, 5, 2, 64},
                                                                                 {1, 66, 1, 70},
                                                                                 {1, 17, 1, 132},
                                                                                 {0, 5, 2, 8}}) {
    const AttentionArgs shape{n, tokens, heads, dim, {}, {}, {}};
    for (const float spread : {1.0f, 6.0f}) test_attention<float>(shape, spread, rng);
    test_attention<BFloat16>(shape, 1, rng);
  }
}

TEST_CASE("Attention gives keys with a score of -infinity no weight", "[kernels][attention]") {
  const int64_t tokens = 70;  // queries 1, keys -infinity but for the last, values the number of the key
  Guarded<float> qkv(3 * tokens);
  for (int64_t i = 0; i < tokens; ++i) {
    qkv[3 * i] = 1;
    qkv[3 * i + 1] = i + 1 < tokens ? -INFINITY : 0.5f;
    qkv[3 * i + 2] = static_cast<float>(i);
  }
  for_each_table({.elements = qkv.size()}, [&](const Kernels& table) {
    Guarded<float> y(tokens);
    table.attention({1, tokens, 1, 1, qkv.data(), y.data(), nullptr});
    for (int64_t i = 0; i < tokens; ++i) CHECK(y[i] == static_cast<float>(tokens - 1));
  });
}

TEST_CASE("Attention hands a NaN on to its image and head alone", "[kernels][attention]") {
  std::mt19937 rng(test_seed("attention NaN"));
  const int64_t n = 2, tokens = 70, heads = 2, dim = 5, row = heads * dim;
  Values<float> qkv(n * tokens * 3 * row, rng);
  qkv[(tokens + 7) * 3 * row + row + dim + 2] = NAN;  // a key of the second image's second head
  for_each_table({.elements = qkv.size()}, [&](const Kernels& table) {
    Guarded<float> y(n * tokens * row);
    table.attention({n, tokens, heads, dim, qkv.data(), y.data(), nullptr});
    for (int64_t i = 0; i < y.size(); ++i) REQUIRE(std::isnan(y[i]) == (i >= tokens * row && i % row >= dim));
  });
}

}  // namespace luq::test
