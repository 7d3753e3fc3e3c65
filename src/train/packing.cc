#include "src/train/packing.h"

#include "luq/core/error.h"

namespace luq {
namespace {

uint8_t code_at(const uint8_t* packed, int64_t i) { return packed[i / 2] >> (4 * (i % 2)) & 15; }

}  // namespace

Tensor code_numbers(const QTensor& q) {
  if (!q.is_one_encoding()) fail("[packing] expected one encoding, got a sum of {} planes", q.planes.size());
  Tensor numbers = Tensor::empty(q.shape);
  const uint8_t* bytes = q.planes[0].codes.data<uint8_t>();
  float* out = numbers.data<float>();
  for (int64_t row = 0; row < q.rows(); ++row, bytes += packed_row_bytes(q.cols())) {
    for (int64_t col = 0; col < q.cols(); ++col) *out++ = static_cast<float>(code_at(bytes, col));
  }
  return numbers;
}

Tensor pack_flat(const Tensor& numbers) {
  Tensor packed = Tensor::zeros({packed_row_bytes(numbers.numel())}, DType::uint8);
  for (int64_t i = 0; i < numbers.numel(); ++i) {
    const int code = static_cast<int>(numbers.data<float>()[i]);
    packed.data<uint8_t>()[i / 2] = static_cast<uint8_t>(packed.data<uint8_t>()[i / 2] | code << (4 * (i % 2)));
  }
  return packed;
}

Tensor unpack_flat(const Tensor& packed, const Shape& shape, Format format, float scale) {
  if (packed.dtype() != DType::uint8 || packed.numel() != packed_row_bytes(shape.numel())) {
    fail("[packing] expected {} bytes of codes for shape {}, got {}", packed_row_bytes(shape.numel()), to_string(shape),
         packed.numel());
  }
  Tensor values = Tensor::empty(shape);
  for (int64_t i = 0; i < values.numel(); ++i) {
    values.data<float>()[i] = static_cast<float>(format.row().value(code_at(packed.data<uint8_t>(), i))) * scale;
  }
  return values;
}

}  // namespace luq
