// kernels/cuda/norm.cu against the CPU's reference, within the bounds of tests/kernels/; the fused kernels against the
// chain that they stand for, with ==.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/cuda/tables.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"

using namespace luq;
using namespace luq::kernels;
using namespace luq::test;

namespace {

constexpr double kEpsilon = 0x1p-24;

// The table of the kernels under test and of those of the chain.
const Kernels& cuda_table() {
  static const Kernels table = [] {
    Kernels t;
    cuda::add_norm(t);
    cuda::add_pointwise(t);
    cuda::add_quantize(t);
    return t;
  }();
  return table;
}

void put(float& to, float value) { to = value; }
void put(BFloat16& to, float value) { to = to_bfloat16(value); }
float get(float x) { return x; }
float get(BFloat16 x) { return to_float(x); }

// Normally distributed values that bfloat16 holds.
template <typename T>
std::vector<T> normal(int64_t count, std::mt19937& random, float mean = 0, float std = 1) {
  std::normal_distribution<float> draw(mean, std);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) put(value, to_float(to_bfloat16(draw(random))));
  return values;
}
template <typename T>
std::vector<float> wide(const std::vector<T>& x) {
  std::vector<float> y;
  for (const T value : x) y.push_back(get(value));
  return y;
}

template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}
bool same(const Stats& a, const Stats& b) {
  return a.sum_abs == b.sum_abs && a.sum_sq == b.sum_sq && a.count == b.count && a.nonzero == b.nonzero &&
         a.abs_bits_max == b.abs_bits_max;
}

// |got - expected| <= tolerance, and half a unit of the type's last place for its rounding.
template <typename T>
void require_close(const char* what, const std::vector<T>& got, const std::vector<float>& expected, double tolerance) {
  REQUIRE(got.size() == expected.size());
  const double rounding = std::is_same_v<T, BFloat16> ? 0x1.02p-8 : 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double a = static_cast<double>(get(got[i])), b = static_cast<double>(expected[i]);
    if (std::fabs(a - b) <= tolerance + rounding * std::fabs(b)) continue;
    FAIL(what << " " << i << ": " << a << ", expected " << b << " within " << tolerance);
  }
}

template <typename T>
void test_batch_norm(int64_t rows, int64_t c, size_t skip, std::mt19937& random) {
  INFO(rows << "x" << c << (sizeof(T) == 2 ? " bfloat16" : " float32") << ", skip " << skip);
  const Kernels &table = cuda_table(), ref = cpu_kernel_tables().front().table;
  const std::vector<T> x = normal<T>(rows * c, random, 3, 2), dy = normal<T>(rows * c, random);
  const std::vector<float> gamma = normal<float>(c, random), beta = normal<float>(c, random);
  const std::vector<float> wide_x = wide(x), wide_dy = wide(dy);
  std::vector<float> mean(gamma.size()), variance(mean), inverse_std(mean), dgamma(mean), dbeta(mean);
  std::vector<float> y(x.size()), dx(x.size());
  ref.batch_norm_stats({wide_x.data(), rows, c, mean.data(), variance.data()});
  const OnDevice<T> device_x(x, skip), device_dy(dy, skip);
  const OnDevice<float> to_mean(mean, skip), to_variance(mean, skip);
  table.batch_norm_stats({device_x.data(), rows, c, to_mean.data(), to_variance.data()});
  require_close("mean", to_mean.host(), mean, 1e-6 * 10);
  require_close("variance", to_variance.host(), variance, 1e-6 * 40);
  for (size_t i = 0; i < mean.size(); ++i) inverse_std[i] = 1.0f / std::sqrt(variance[i] + 1e-5f);
  const double spread = rows < 4 ? 1e5 : 30, root = std::sqrt(static_cast<double>(rows)) + 1;
  const OnDevice<float> device_mean(mean, skip), device_std(inverse_std, skip), device_gamma(gamma, skip),
      device_beta(beta, skip), to_dgamma(mean, skip), to_dbeta(mean, skip);
  ref.batch_norm_apply({wide_x.data(), rows, c, mean.data(), inverse_std.data(), gamma.data(), beta.data(), y.data()});
  const OnDevice<T> to_y(x, skip), in_place(x, skip);
  table.batch_norm_apply({device_x.data(), rows, c, device_mean.data(), device_std.data(), device_gamma.data(),
                          device_beta.data(), to_y.data()});
  table.batch_norm_apply({in_place.data(), rows, c, device_mean.data(), device_std.data(), device_gamma.data(),
                          device_beta.data(), in_place.data()});
  if (sizeof(T) == 4) CHECK(wide(to_y.host()) == y);
  require_close("y", to_y.host(), y, 0);
  CHECK(same(in_place.host(), to_y.host()));
  for (const bool training : {true, false}) {
    ref.batch_norm_backward({wide_x.data(), wide_dy.data(), rows, c, mean.data(), inverse_std.data(), gamma.data(),
                             training, dx.data(), dgamma.data(), dbeta.data()});
    const OnDevice<T> to_dx(x, skip), dx_in_place(dy, skip);
    table.batch_norm_backward({device_x.data(), device_dy.data(), rows, c, device_mean.data(), device_std.data(),
                               device_gamma.data(), training, to_dx.data(), to_dgamma.data(), to_dbeta.data()});
    require_close("dx", to_dx.host(), dx, 1e-5 * spread);
    require_close("dgamma", to_dgamma.host(), dgamma, 1e-5 * root * spread);
    require_close("dbeta", to_dbeta.host(), dbeta, 1e-6 * root);
    table.batch_norm_backward({device_x.data(), dx_in_place.data(), rows, c, device_mean.data(), device_std.data(),
                               device_gamma.data(), training, dx_in_place.data(), to_dgamma.data(), to_dbeta.data()});
    CHECK(same(dx_in_place.host(), to_dx.host()));
  }
}

// The fused kernels and, in float32, the chain of their table; in bfloat16 what the chain gives in float32, rounded.
template <typename T>
void test_fused(int64_t rows, int64_t c, size_t skip, std::mt19937& random) {
  const Kernels &table = cuda_table(), ref = cpu_kernel_tables().front().table;
  const int64_t count = rows * c;
  const std::vector<T> x = normal<T>(count, random, 3, 2), dy = normal<T>(count, random),
                       residual = normal<T>(count, random);
  const std::vector<float> zeros(static_cast<size_t>(count));
  const OnDevice<T> device_x(x, skip), device_dy(dy, skip), device_residual(residual, skip);
  const OnDevice<float> wide_x(wide(x), skip), wide_residual(wide(residual), skip);
  const OnDevice<float> gamma(normal<float>(c, random), skip), beta(normal<float>(c, random), skip),
      mean(normal<float>(c, random, 3, 1), skip), inverse_std(normal<float>(c, random, 1, 0.1f), skip);
  for (const float ceiling : {-1.0f, 0.0f, 1.5f}) {
    for (const bool add : {false, true}) {
      for (const bool in_place : {false, true}) {
        const bool relu = ceiling >= 0;
        INFO(rows << "x" << c << (sizeof(T) == 2 ? " bfloat16" : " float32") << ", skip " << skip << ", ceiling "
                  << ceiling << (add ? ", add" : "") << (in_place ? ", in place" : ""));
        const std::vector<uint8_t> bytes(static_cast<size_t>(count + 7) / 8, 0xff);
        // Forward.
        const OnDevice<float> chain(zeros, skip);
        const OnDevice<uint8_t> wide_mask(bytes);
        table.batch_norm_apply(
            {wide_x.data(), rows, c, mean.data(), inverse_std.data(), gamma.data(), beta.data(), chain.data()});
        if (add) table.add({chain.data(), wide_residual.data(), count, chain.data()});
        if (relu) table.relu({chain.data(), count, chain.data(), wide_mask.data(), ceiling});
        const OnDevice<T> y(add ? residual : x, skip);
        const OnDevice<uint8_t> mask(bytes);
        Stats stats, expected_stats;
        BatchNormActArgs forward{.x = in_place && !add ? y.data() : device_x.data(),
                                 .rows = rows,
                                 .c = c,
                                 .mean = mean.data(),
                                 .inverse_std = inverse_std.data(),
                                 .gamma = gamma.data(),
                                 .beta = beta.data(),
                                 .residual = nullptr,
                                 .relu = relu,
                                 .y = y.data(),
                                 .mask = relu ? mask.data() : nullptr,
                                 .stats = &stats,
                                 .ceiling = std::max(ceiling, 0.0f)};
        if (add) forward.residual = in_place ? y.data() : device_residual.data();
        table.batch_norm_act(forward);
        const std::vector<T> result = y.host();
        std::vector<T> expected(result.size());
        const std::vector<float> chained = chain.host();
        for (size_t i = 0; i < expected.size(); ++i) put(expected[i], chained[i]);
        CHECK(same(result, expected));
        // The mask is of what is stored: a value below the ceiling may round to it.
        std::vector<uint8_t> expected_mask(bytes.size());
        for (size_t i = 0; i < expected.size(); ++i) {
          const float value = get(expected[i]);
          if (value != 0 && !(ceiling > 0 && value == ceiling))
            expected_mask[i / 8] |= static_cast<uint8_t>(1u << i % 8);
        }
        if (relu) CHECK(mask.host() == expected_mask);
        if (relu && sizeof(T) == 4) CHECK(wide_mask.host() == expected_mask);
        const OnDevice<uint8_t> chain_mask(expected_mask);
        ref.stats({result.data(), count, &expected_stats});
        CHECK(same(stats, expected_stats));

        // Backward. dy may be where dresidual goes, or, without one, where dx goes.
        const OnDevice<T> masked(dy, skip), chain_dx(dy, skip);
        const std::vector<float> nothing(static_cast<size_t>(c));
        const OnDevice<float> chain_dgamma(nothing), chain_dbeta(nothing), dgamma(nothing), dbeta(nothing);
        if (relu) table.relu_backward({device_dy.data(), chain_mask.data(), count, masked.data()});
        for (const bool training : {true, false}) {
          table.batch_norm_backward({device_x.data(), masked.data(), rows, c, mean.data(), inverse_std.data(),
                                     gamma.data(), training, chain_dx.data(), chain_dgamma.data(), chain_dbeta.data()});
          const OnDevice<T> dresidual(dy, skip), dx(dy, skip);
          BatchNormActBackwardArgs backward{.x = device_x.data(),
                                            .dy = !in_place ? device_dy.data()
                                                  : add     ? dresidual.data()
                                                            : dx.data(),
                                            .rows = rows,
                                            .c = c,
                                            .mean = mean.data(),
                                            .inverse_std = inverse_std.data(),
                                            .gamma = gamma.data(),
                                            .training = training,
                                            .mask = relu ? mask.data() : nullptr,
                                            .dresidual = nullptr,
                                            .dx = dx.data(),
                                            .dgamma = dgamma.data(),
                                            .dbeta = dbeta.data(),
                                            .stats = &stats};
          if (add) backward.dresidual = dresidual.data();
          table.batch_norm_act_backward(backward);
          CHECK(same(dx.host(), chain_dx.host()));
          if (add) CHECK(same(dresidual.host(), masked.host()));
          CHECK(same(dgamma.host(), chain_dgamma.host()));
          CHECK(same(dbeta.host(), chain_dbeta.host()));
          ref.stats({dx.host().data(), count, &expected_stats});
          CHECK(same(stats, expected_stats));
        }
      }
    }
  }
}

template <typename T>
void test_layer_norm(int64_t rows, int64_t c, size_t skip, std::mt19937& random) {
  INFO(rows << "x" << c << (sizeof(T) == 2 ? " bfloat16" : " float32") << ", skip " << skip);
  constexpr float kEps = 1e-6f;
  const Kernels &table = cuda_table(), ref = cpu_kernel_tables().front().table;
  const std::vector<T> x = normal<T>(rows * c, random, 3, 2), dy = normal<T>(rows * c, random);
  const std::vector<float> gamma = normal<float>(c, random), beta = normal<float>(c, random);
  const std::vector<float> wide_x = wide(x), wide_dy = wide(dy);
  std::vector<float> y(x.size()), dx(x.size()), mean(static_cast<size_t>(rows)), inverse_std(mean);
  std::vector<float> dgamma(gamma.size()), dbeta(gamma.size());
  ref.layer_norm({wide_x.data(), rows, c, gamma.data(), beta.data(), kEps, y.data(), mean.data(), inverse_std.data()});
  ref.layer_norm_backward({wide_x.data(), wide_dy.data(), rows, c, mean.data(), inverse_std.data(), gamma.data(),
                           dx.data(), dgamma.data(), dbeta.data()});
  double scale = 0;
  for (const float value : inverse_std) scale = std::max(scale, static_cast<double>(value));
  const double xhat = 10 * kEpsilon * 12 * scale, root = std::sqrt(static_cast<double>(rows)) + 1;

  const OnDevice<T> device_x(x, skip), device_dy(dy, skip), to_y(x, skip), to_dx(x, skip);
  const OnDevice<float> device_gamma(gamma, skip), device_beta(beta, skip), device_mean(mean, skip),
      device_std(inverse_std, skip), to_mean(mean, skip), to_std(mean, skip), to_dgamma(dgamma, skip),
      to_dbeta(dgamma, skip);
  table.layer_norm({device_x.data(), rows, c, device_gamma.data(), device_beta.data(), kEps, to_y.data(),
                    to_mean.data(), to_std.data()});
  table.layer_norm_backward({device_x.data(), device_dy.data(), rows, c, device_mean.data(), device_std.data(),
                             device_gamma.data(), to_dx.data(), to_dgamma.data(), to_dbeta.data()});
  require_close("mean", to_mean.host(), mean, 10 * kEpsilon * 12);
  require_close("inverse std", to_std.host(), inverse_std, 10 * kEpsilon * 12 * scale * scale);
  require_close("y", to_y.host(), y, 5 * xhat);
  require_close("dx", to_dx.host(), dx, 25 * scale * (xhat + 10 * kEpsilon) * (1 + 5 * scale * kEpsilon));
  require_close("dgamma", to_dgamma.host(), dgamma, 5 * root * (xhat + 10 * kEpsilon * 5));
  require_close("dbeta", to_dbeta.host(), dbeta, 10 * kEpsilon * 5 * root);
  const OnDevice<T> in_place(x, skip), dx_in_place(dy, skip);
  table.layer_norm(
      {in_place.data(), rows, c, device_gamma.data(), device_beta.data(), kEps, in_place.data(), nullptr, nullptr});
  table.layer_norm_backward({device_x.data(), dx_in_place.data(), rows, c, device_mean.data(), device_std.data(),
                             device_gamma.data(), dx_in_place.data(), to_dgamma.data(), to_dbeta.data()});
  CHECK(same(in_place.host(), to_y.host()));
  CHECK(same(dx_in_place.host(), to_dx.host()));
  require_close("dgamma", to_dgamma.host(), dgamma, 5 * root * (xhat + 10 * kEpsilon * 5));
}

}  // namespace

TEST_CASE("cuda: batch norm is ref's", "[cuda][norm]") {
  std::mt19937 random(15);
  uint64_t seed = 0;
  for (const auto& [rows, c] : std::vector<std::pair<int64_t, int64_t>>{{1, 1},
                                                                        {2, 1},
                                                                        {3, 16},
                                                                        {255, 17},
                                                                        {256, 16},
                                                                        {1000, 3},
                                                                        {5, 1000},
                                                                        {4097, 8},
                                                                        {300, 64},
                                                                        {70, 264},
                                                                        {33, 31}}) {
    for (const size_t skip : {0, 1}) {
      emulation::set_seed(++seed);
      test_batch_norm<float>(rows, c, skip, random);
      test_batch_norm<BFloat16>(rows, c, skip, random);
    }
  }
}

TEST_CASE("cuda: the fused kernels around batch norm equal the chain that they stand for", "[cuda][norm]") {
  std::mt19937 random(16);
  uint64_t seed = 0;
  for (const auto& [rows, c] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 8}, {1, 1}, {3, 16}, {255, 17}, {300, 24}, {700, 8}, {33, 31}, {70, 264}, {10, 20}}) {
    for (const size_t skip : {0, 1}) {
      emulation::set_seed(++seed);
      test_fused<float>(rows, c, skip, random);
      test_fused<BFloat16>(rows, c, skip, random);
    }
  }
}

TEST_CASE("cuda: the variance keeps its digits when the mean is far from 0", "[cuda][norm]") {
  std::mt19937 random(17);
  for (const int64_t c : {5, 16}) {
    std::normal_distribution<float> draw(100, 1);
    std::vector<float> x(static_cast<size_t>(3000 * c));
    for (float& value : x) value = draw(random);
    std::vector<double> exact_mean(static_cast<size_t>(c)), exact(exact_mean);
    for (size_t i = 0; i < x.size(); ++i) exact_mean[i % exact.size()] += static_cast<double>(x[i]) / 3000;
    for (size_t i = 0; i < x.size(); ++i) {
      const double difference = static_cast<double>(x[i]) - exact_mean[i % exact.size()];
      exact[i % exact.size()] += difference * difference / 3000;
    }
    std::vector<float> first_mean, first_variance;
    for (const uint64_t seed : {1, 2, 3}) {
      emulation::set_seed(seed);
      const OnDevice<float> device_x(x), to_mean(std::vector<float>(exact.size())),
          to_variance(std::vector<float>(exact.size()));
      cuda_table().batch_norm_stats({device_x.data(), 3000, c, to_mean.data(), to_variance.data()});
      const std::vector<float> mean = to_mean.host(), variance = to_variance.host();
      for (size_t i = 0; i < exact.size(); ++i) {
        CHECK(std::fabs(static_cast<double>(variance[i]) / exact[i] - 1) < 1e-5);
        CHECK(std::fabs(static_cast<double>(mean[i]) / exact_mean[i] - 1) < 1e-6);
      }
      if (first_mean.empty()) first_mean = mean, first_variance = variance;
      CHECK(same(mean, first_mean));
      CHECK(same(variance, first_variance));
    }
  }
}

TEST_CASE("cuda: layer norm is ref's", "[cuda][norm]") {
  std::mt19937 random(18);
  uint64_t seed = 0;
  for (const auto& [rows, c] : std::vector<std::pair<int64_t, int64_t>>{{0, 16},
                                                                        {1, 1},
                                                                        {1, 2},
                                                                        {3, 5},
                                                                        {17, 16},
                                                                        {33, 8},
                                                                        {64, 33},
                                                                        {2, 1000},
                                                                        {300, 17},
                                                                        {20, 768},
                                                                        {9, 260},
                                                                        {65, 65}}) {
    for (const size_t skip : {0, 1}) {
      emulation::set_seed(++seed);
      test_layer_norm<float>(rows, c, skip, random);
      test_layer_norm<BFloat16>(rows, c, skip, random);
    }
  }
}
