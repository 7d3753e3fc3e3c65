#include "luq/nn/stored_layout.h"

#include "luq/core/error.h"

namespace luq {
namespace {

// Channels of the pixels that a row of the parameter consists of; 0 where a row has none.
int64_t channels_of(const Parameter& parameter) {
  const Shape& shape = parameter.var.shape();
  return shape.rank() == 4 ? shape[3] : parameter.flattened_channels;
}

// (rows, a, b) -> (rows, b, a)
void swap_inner(const float* from, int64_t rows, int64_t a, int64_t b, float* to) {
  for (int64_t row = 0; row < rows; ++row, from += a * b, to += a * b) {
    for (int64_t j = 0; j < b; ++j) {
      for (int64_t i = 0; i < a; ++i) to[j * a + i] = from[i * b + j];
    }
  }
}

}  // namespace

Shape stored_shape(const Parameter& parameter) {
  const Shape& shape = parameter.var.shape();
  return shape.rank() == 4 ? Shape{shape[0], shape[3], shape[1], shape[2]} : shape;
}

Tensor to_stored_layout(const Parameter& parameter, const Tensor& value) {
  const int64_t channels = channels_of(parameter);
  if (channels == 0) return value;
  const int64_t rows = value.size(0), pixels = value.numel() / (rows * channels);
  Tensor stored = Tensor::empty(stored_shape(parameter));
  swap_inner(value.data<float>(), rows, pixels, channels, stored.data<float>());
  return stored;
}

Tensor from_stored_layout(const Parameter& parameter, const Tensor& stored) {
  if (stored.shape() != stored_shape(parameter)) {
    fail("[from_stored_layout] {}: expected {}, got {}", parameter.name, to_string(stored_shape(parameter)),
         to_string(stored.shape()));
  }
  const int64_t channels = channels_of(parameter);
  if (channels == 0) return stored;
  const int64_t rows = stored.size(0), pixels = stored.numel() / (rows * channels);
  Tensor value = Tensor::empty(parameter.var.shape());
  swap_inner(stored.data<float>(), rows, channels, pixels, value.data<float>());
  return value;
}

}  // namespace luq
