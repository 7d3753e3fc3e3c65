// The tests of float kernels share these: random values, and comparisons with ref.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <random>

#include "kernels/kernels.h"
#include "tests/kernels/harness.h"

namespace luq::test {

// Normally distributed values.
struct Random : Guarded<float> {
  Random(int64_t count, std::mt19937& rng, float mean = 0, float std = 1) : Guarded<float>(count) {
    std::normal_distribution<float> distribution(mean, std);
    for (int64_t i = 0; i < count; ++i) data()[i] = distribution(rng);
  }
};

// |a - b| <= tolerance * magnitude everywhere; magnitude: of the terms that were added.
inline void require_close(const Guarded<float>& a, const Guarded<float>& b, double tolerance, double magnitude) {
  for (int64_t i = 0; i < a.size(); ++i) {
    INFO("element " << i << ": " << a[i] << " and " << b[i]);
    REQUIRE(std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])) <= tolerance * magnitude);
  }
}

// Runs `run(table, output)` for ref and for every table with 1, 2 and 3 threads: close to ref, the same for all
// threads.
inline void compare(const Work& work, int64_t count, double tolerance, double magnitude,
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

}  // namespace luq::test
