// Computes what qconv_forward_moments must give, which ref has no entry for, from the exact sums and by other means
// than the kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace luq::test {

// Mean and variance of a's results; operands and both of these in host memory.
inline void moments_by_ref(const Kernels& ref, const kernels::QConvForwardMomentsArgs& a) {
  const ConvShape& s = a.conv.shape;
  std::vector<int64_t> sums(static_cast<size_t>(s.y_size()));
  kernels::QConvForwardArgs integers = a.conv;
  integers.sums = sums.data();
  ref.qconv_forward(integers);
  const int64_t rows = s.n * s.oh() * s.ow();
  const auto count = static_cast<double>(rows);
  for (int64_t channel = 0; channel < s.o; ++channel) {
    const double scale = static_cast<double>(kernels::result_scale(a.conv.scale, a.conv.scales, channel));
    __int128 sum = 0, square = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const __int128 value = sums[static_cast<size_t>(row * s.o + channel)];
      sum += value;
      square += value * value;
    }
    a.mean[channel] = static_cast<float>(scale * (static_cast<double>(sum) / count));
    const auto spread = static_cast<double>(square * rows - sum * sum);
    a.variance[channel] = static_cast<float>(scale * scale * (spread / count / count));
  }
}

}  // namespace luq::test
