// How ref treats bfloat16: operands become float32 first, results are rounded last.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace luq::kernels::ref {

inline float load(ConstFloats x, int64_t i) { return x.bfloat16 ? to_float(x.as<BFloat16>()[i]) : x.as<float>()[i]; }

inline void store(Floats y, int64_t i, float value) {
  if (y.bfloat16) {
    y.as<BFloat16>()[i] = to_bfloat16(value);
  } else {
    y.as<float>()[i] = value;
  }
}

// `count` values as float32; null stays null.
class Operand {
 public:
  Operand(ConstFloats x, int64_t count) : values_(x.bfloat16 ? nullptr : x.as<float>()) {
    if (!x.bfloat16 || !x) return;
    copy_.resize(static_cast<size_t>(count) + 1);
    for (int64_t i = 0; i < count; ++i) copy_[static_cast<size_t>(i)] = load(x, i);
    values_ = copy_.data();
  }
  operator const float*() const { return values_; }

 private:
  std::vector<float> copy_;
  const float* values_;
};

// Takes `count` results, and writes them to their array when it ends.
class Result {
 public:
  Result(Floats y, int64_t count) : to_(y), count_(count), values_(y.bfloat16 ? nullptr : y.as<float>()) {
    if (!y.bfloat16 || !y) return;
    copy_.resize(static_cast<size_t>(count) + 1);
    values_ = copy_.data();
  }
  ~Result() {
    if (copy_.empty()) return;
    for (int64_t i = 0; i < count_; ++i) store(to_, i, values_[i]);
  }
  Result(const Result&) = delete;
  Result& operator=(const Result&) = delete;
  operator float*() const { return values_; }

 private:
  Floats to_;
  int64_t count_;
  std::vector<float> copy_;
  float* values_;
};

// Weights as they multiply activations of a type: rounded to it.
class Weights {
 public:
  Weights(const float* w, int64_t count, bool bfloat16) : w_(w) {
    if (!bfloat16) return;
    rounded_.reserve(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) rounded_.push_back(to_float(to_bfloat16(w[i])));
    w_ = rounded_.data();
  }
  operator const float*() const { return w_; }

 private:
  const float* w_;
  std::vector<float> rounded_;
};

}  // namespace luq::kernels::ref
