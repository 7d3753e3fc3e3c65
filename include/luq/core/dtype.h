// Element types of tensors. Packed 4-bit codes are uint8 tensors inside a QTensor.
#pragma once

#include <cstdint>

#include "luq/core/bfloat16.h"

namespace luq {

enum class DType : uint8_t { float32, bfloat16, uint8, int32, int64 };

constexpr int64_t size_of(DType dtype) {
  constexpr int64_t sizes[] = {4, 2, 1, 4, 8};
  return sizes[static_cast<int>(dtype)];
}
constexpr const char* to_string(DType dtype) {
  constexpr const char* names[] = {"float32", "bfloat16", "uint8", "int32", "int64"};
  return names[static_cast<int>(dtype)];
}
// The types that activations and their gradients come in.
constexpr bool is_float(DType dtype) { return dtype == DType::float32 || dtype == DType::bfloat16; }

template <typename T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::float32;
}
template <>
constexpr DType dtype_of<BFloat16>() {
  return DType::bfloat16;
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
