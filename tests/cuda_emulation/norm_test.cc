// The fused kernels of kernels/cuda/batch_norm.cu on bfloat16 against the chain in float32 that they stand for, with
// ==: closer than tests/kernels/ looks, where tables may round differently.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cuda/tables.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"

using namespace luq;
using namespace luq::kernels;
using namespace luq::test;

namespace {

// The table of the kernels under test and of those of the chain.
const Kernels& cuda_table() {
  static const Kernels table = [] {
    Kernels t;
    cuda::add_batch_norm(t);
    cuda::add_layer_norm(t);
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

// What the chain of the same table gives in float32, rounded.
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

}  // namespace

TEST_CASE("cuda: the fused kernels around batch norm equal the chain that they stand for", "[cuda][norm]") {
  std::mt19937 random(16);
  uint64_t seed = 0;
  for (const auto& [rows, c] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 8}, {3, 16}, {255, 17}, {300, 24}, {33, 31}, {10, 264}, {10, 20}}) {
    for (const size_t skip : {0, 1}) {
      emulation::set_seed(++seed);
      test_fused<BFloat16>(rows, c, skip, random);
    }
  }
  test_fused<float>(0, 8, 0, random);
}
