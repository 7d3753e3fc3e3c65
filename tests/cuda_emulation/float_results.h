// What the tests of float kernels share: results that must be close to the reference's and the same for every order of
// threads.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"

namespace luq::test {

constexpr uint64_t kOrders = 3;

inline std::vector<float> widened(const std::vector<float>& x) { return x; }
inline std::vector<float> widened(const std::vector<BFloat16>& x) {
  std::vector<float> y;
  for (const BFloat16 value : x) y.push_back(to_float(value));
  return y;
}

template <typename T>
std::vector<T> values_of(const std::vector<float>& x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return rounded(x);
  } else {
    return x;
  }
}

template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// Within `tolerance`, and half a unit of the last place where T rounds.
template <typename T>
void require_close(const std::vector<T>& result, const std::vector<float>& expected, double tolerance) {
  const std::vector<float> got = widened(result);
  REQUIRE(got.size() == expected.size());
  const double rounding = std::is_same_v<T, BFloat16> ? 0x1.02p-8 : 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double want = static_cast<double>(expected[i]);
    if (std::fabs(static_cast<double>(got[i]) - want) <= tolerance + rounding * std::fabs(want)) continue;
    FAIL("element " << i << ": " << got[i] << ", expected " << want);
  }
}

// What run(result in device memory) leaves there, when every seed leaves the same.
template <typename T, typename Run>
std::vector<T> result_of(int64_t count, size_t skip, const Run& run) {
  std::vector<T> first;
  for (uint64_t seed = 0; seed < kOrders; ++seed) {
    emulation::set_seed(seed);
    const OnDevice<T> result(std::vector<T>(static_cast<size_t>(count)), skip);
    run(result.data());
    const std::vector<T> got = result.host();
    if (seed == 0) first = got;
    REQUIRE(same(got, first));
  }
  return first;
}

}  // namespace luq::test
