// A contiguous, row-major, reference-counted array in the memory of one device. Copies share the buffer; clone() copies
// it. Only kernels may touch the values of a tensor that is not on the CPU; to() brings them here.
#pragma once

#include <cstdint>
#include <memory>

#include "luq/core/device.h"
#include "luq/core/dtype.h"
#include "luq/core/shape.h"

namespace luq {

class Tensor {
 public:
  Tensor() = default;

  // Contents undefined.
  static Tensor empty(const Shape& shape, DType dtype = DType::float32, Device device = {});
  static Tensor zeros(const Shape& shape, DType dtype = DType::float32, Device device = {});
  static Tensor full(const Shape& shape, float value, Device device = {});
  // On the CPU, in memory that uploads to `device` may come from; contents undefined.
  static Tensor pinned(const Shape& shape, DType dtype, Device device);
  // A copy of shape.numel() values.
  template <typename T>
  static Tensor from(const Shape& shape, const T* values);

  bool defined() const { return buffer_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t size(int64_t dimension) const { return shape_[dimension]; }
  int64_t numel() const { return numel_; }
  int64_t bytes() const { return numel_ * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

  // Throws Error when T is not the tensor's dtype.
  template <typename T>
  T* data();
  template <typename T>
  const T* data() const;
  void* raw() { return buffer_.get(); }
  const void* raw() const { return buffer_.get(); }

  Tensor clone() const;
  // The same values on a device: the tensor itself where it is there, else a copy.
  Tensor to(Device device) const;
  // Overwrites the values, from any device. Throws Error when shapes or dtypes differ.
  void copy_from(const Tensor& other);
  // The same buffer seen with another shape of the same numel.
  Tensor reshape(const Shape& shape) const;
  // True when no other tensor shares the buffer, so that it may be written in place.
  bool unique() const { return buffer_.use_count() == 1; }
  bool shares_buffer_with(const Tensor& other) const { return buffer_ == other.buffer_; }
  void zero();

 private:
  Tensor(const Shape& shape, DType dtype, Device device);

  std::shared_ptr<void> buffer_;
  Shape shape_;
  int64_t numel_ = 0;
  DType dtype_ = DType::float32;
  Device device_;
};

}  // namespace luq
