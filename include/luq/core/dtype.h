// Element types of tensors. Packed 4-bit codes are uint8 tensors inside a QTensor.
#pragma once

#include <cstdint>

namespace luq {

enum class DType : uint8_t { float32, uint8, int32, int64 };

constexpr int64_t size_of(DType dtype) {
  constexpr int64_t sizes[] = {4, 1, 4, 8};
  return sizes[static_cast<int>(dtype)];
}
constexpr const char* to_string(DType dtype) {
  constexpr const char* names[] = {"float32", "uint8", "int32", "int64"};
  return names[static_cast<int>(dtype)];
}

template <typename T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::float32;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::uint8;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::int32;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::int64;
}

}  // namespace luq
