// The tests of CUDA kernels share these: arrays in device memory, and values to put there.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "kernels/kernels.h"

namespace luq::test {

// Values in device memory, `skip` values behind the beginning of an allocation that ends where they do.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values, size_t skip = 0) : count_(values.size()) {
    void* memory = nullptr;
    kernels::cuda::check(cudaMalloc(&memory, (count_ + skip) * sizeof(T)), "test");
    memory_ = static_cast<T*>(memory);
    data_ = memory_ + skip;
    kernels::cuda::check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "test");
  }
  ~OnDevice() { cudaFree(memory_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* data() const { return data_; }
  std::vector<T> host() const {
    kernels::cuda::synchronize("test");
    std::vector<T> values(count_);
    kernels::cuda::check(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "test");
    return values;
  }

 private:
  size_t count_;
  T *memory_ = nullptr, *data_ = nullptr;
};

// Gaussian, a fifth of them 0.
inline std::vector<float> gaussian(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> draw(0, 1);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = random() % 5 == 0 ? 0 : draw(random);
  return values;
}

inline std::vector<BFloat16> rounded(const std::vector<float>& x) {
  std::vector<BFloat16> y;
  for (const float value : x) y.push_back(to_bfloat16(value));
  return y;
}

}  // namespace luq::test
