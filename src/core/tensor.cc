#include "luq/core/tensor.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "luq/core/allocator.h"
#include "luq/core/error.h"
#include "src/core/no_memory.h"

namespace luq {

std::string to_string(const Shape& shape) { return fmt::format("({})", fmt::join(shape.begin(), shape.end(), ",")); }

std::string to_string(const Device& device) {
  return device.type == DeviceType::cpu ? "cpu" : fmt::format("cuda:{}", device.index);
}

Device parse_device(const std::string& name) {
  if (name == "cpu") return {DeviceType::cpu, 0};
  if (name == "cuda") return {DeviceType::cuda, 0};
  fail_user("[device] expected cpu or cuda, got '{}'", name);
}

// Without memory.
Tensor::Tensor(const Shape& shape, DType dtype, Device device)
    : shape_(shape), numel_(shape.numel()), dtype_(dtype), device_(device) {
  for (const int64_t extent : shape) {
    if (extent < 0) fail("[tensor] expected extents of at least 0, got {}", to_string(shape));
  }
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  Tensor tensor(shape, dtype, device);
  const int64_t bytes = tensor.bytes();
  try {
    or_out_of_memory("[allocate]", [&] {
      tensor.buffer_ = std::shared_ptr<void>(allocate(bytes, device),
                                             [bytes, device](void* pointer) { deallocate(pointer, bytes, device); });
    });
  } catch (const OutOfMemory& error) {
    throw OutOfMemory(fmt::format("[tensor] {} {}: {}", to_string(dtype), to_string(shape), error.what()));
  }
  return tensor;
}

Tensor Tensor::pinned(const Shape& shape, DType dtype, Device device) {
  Tensor tensor(shape, dtype, {});
  const int64_t bytes = tensor.bytes();
  tensor.buffer_ = std::shared_ptr<void>(allocate_pinned(bytes, device),
                                         [bytes, device](void* pointer) { deallocate_pinned(pointer, bytes, device); });
  return tensor;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  Tensor tensor = empty(shape, dtype, device);
  tensor.zero();
  return tensor;
}

Tensor Tensor::full(const Shape& shape, float value, Device device) {
  Tensor tensor = empty(shape);
  std::fill_n(tensor.data<float>(), tensor.numel(), value);
  return tensor.to(device);
}

template <typename T>
Tensor Tensor::from(const Shape& shape, const T* values) {
  Tensor tensor = empty(shape, dtype_of<T>());
  std::copy_n(values, tensor.numel(), tensor.data<T>());
  return tensor;
}

template <typename T>
T* Tensor::data() {
  if (dtype_ != dtype_of<T>()) fail("[tensor] expected dtype {}, got {}", to_string(dtype_of<T>()), to_string(dtype_));
  return static_cast<T*>(buffer_.get());
}

template <typename T>
const T* Tensor::data() const {
  return const_cast<Tensor*>(this)->data<T>();
}

Tensor Tensor::clone() const {
  Tensor copy = empty(shape_, dtype_, device_);
  copy.copy_from(*this);
  return copy;
}

Tensor Tensor::to(Device device) const {
  if (!defined() || device == device_) return *this;
  Tensor copy = empty(shape_, dtype_, device);
  copy.copy_from(*this);
  return copy;
}

void Tensor::copy_from(const Tensor& other) {
  if (other.shape_ != shape_ || other.dtype_ != dtype_) {
    fail("[copy_from] expected {} {}, got {} {}", to_string(dtype_), to_string(shape_), to_string(other.dtype_),
         to_string(other.shape_));
  }
  const bool here = device_.type == DeviceType::cpu, from_here = other.device_.type == DeviceType::cpu;
  if (here && from_here) {
    std::memcpy(raw(), other.raw(), static_cast<size_t>(bytes()));
  } else if (here) {
    device_memory(other.device_)->to_host(raw(), other.raw(), bytes());
  } else if (from_here) {
    device_memory(device_)->to_device(raw(), other.raw(), bytes());
  } else {
    device_memory(device_)->within_device(raw(), other.raw(), bytes());
  }
}

Tensor Tensor::reshape(const Shape& shape) const {
  if (shape.numel() != numel_) fail("[reshape] expected {} elements, got {}", numel_, to_string(shape));
  Tensor view = *this;
  view.shape_ = shape;
  return view;
}

void Tensor::zero() {
  if (device_.type == DeviceType::cpu) {
    std::memset(raw(), 0, static_cast<size_t>(bytes()));
  } else {
    device_memory(device_)->clear(raw(), bytes());
  }
}

#define LUQ_INSTANTIATE(T)                                 \
  template Tensor Tensor::from<T>(const Shape&, const T*); \
  template T* Tensor::data<T>();                           \
  template const T* Tensor::data<T>() const;
LUQ_INSTANTIATE(float)
LUQ_INSTANTIATE(BFloat16)
LUQ_INSTANTIATE(uint8_t)
LUQ_INSTANTIATE(int32_t)
LUQ_INSTANTIATE(int64_t)
#undef LUQ_INSTANTIATE

}  // namespace luq
