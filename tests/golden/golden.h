// What the comparisons with PyTorch share: how a tensor is boiled down to the numbers that the files hold.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "luq/core/rng.h"
#include "tests/unit/op_test.h"

namespace luq::test {

inline double norm(const Tensor& x) {
  double square = 0;
  for (int64_t i = 0; i < x.numel(); ++i) square += static_cast<double>(x.data<float>()[i]) * x.data<float>()[i];
  return std::sqrt(square);
}

// As signed_sums() of counter.py.
inline Tensor signed_sums(const std::string& name, const Tensor& x) {
  double sums[16] = {};
  const RngKey key = make_rng_key(1, "signs:" + name);
  PhiloxBlock block{};
  for (int64_t i = 0; i < x.numel(); ++i) {
    if (i % 8 == 0) block = philox(key, static_cast<uint64_t>(i / 8));
    const double value = x.data<float>()[i];
    const uint32_t bits = random16(block, static_cast<int>(i % 8));
    for (int j = 0; j < 16; ++j) sums[j] += (bits >> j & 1) != 0 ? value : -value;
  }
  std::vector<float> result{static_cast<float>(norm(x))};
  for (const double sum : sums) result.push_back(static_cast<float>(sum));
  return tensor_of({17}, result);
}

}  // namespace luq::test
