// What the tests of tensors, tape and ops share.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "luq/autograd/ctx.h"
#include "luq/core/rng.h"

namespace luq::test {

// Uniform in [low, high), a function of the name alone: what RngStream::uniform gives one after the other.
inline Tensor random_tensor(const Shape& shape, const std::string& name, float low = -1, float high = 1) {
  Tensor tensor = Tensor::empty(shape);
  const RngKey key = make_rng_key(1, name);
  float* x = tensor.data<float>();
  const int64_t count = tensor.numel();
#pragma omp parallel for schedule(static) if (count > 100000)
  for (int64_t begin = 0; begin < count; begin += 4) {
    const PhiloxBlock block = philox(key, static_cast<uint64_t>(begin / 4));
    for (int64_t i = begin; i < begin + 4 && i < count; ++i) {
      x[i] = low + (high - low) * (static_cast<float>(block.word[i - begin] >> 8) * 0x1p-24f);
    }
  }
  return tensor;
}

inline std::vector<float> values(const Tensor& tensor) {
  return {tensor.data<float>(), tensor.data<float>() + tensor.numel()};
}

inline Tensor tensor_of(const Shape& shape, const std::vector<float>& values) {
  return Tensor::from(shape, values.data());
}

inline Ctx make_ctx(Tape* tape = nullptr, const QuantPlan* quant = nullptr) {
  Ctx ctx;
  ctx.kernels = &kernels_for({});
  ctx.tape = tape;
  ctx.quant = quant;
  ctx.seed = 5;
  ctx.training = true;
  return ctx;
}

// A loss whose gradient with respect to y is `dy`: sum(y * dy), recorded on the tape.
inline Var weighted_sum(Ctx& ctx, const Var& y, const Tensor& dy) {
  double sum = 0;
  for (int64_t i = 0; i < dy.numel(); ++i) sum += y.value().data<float>()[i] * dy.data<float>()[i];
  Var loss(Tensor::full({1}, static_cast<float>(sum)), true);
  ctx.tape->record(
      loss, [kernels = ctx.kernels, dy, slot = y.slot()](const Tensor&) { add_gradient(*kernels, *slot, dy.clone()); });
  return loss;
}

}  // namespace luq::test
