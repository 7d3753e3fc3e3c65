#include "src/train/packing.h"

#include "luq/core/error.h"

namespace luq {
namespace {

float integer_of(int code, bool is_signed) { return static_cast<float>(is_signed && code > 7 ? code - 16 : code); }

}  // namespace

Tensor decode_integers(const QTensor& codes) {
  if (codes.format != Format::int4 && codes.format != Format::uint4) {
    fail("[packing] expected codes of int4 or uint4, got {}", to_string(codes.format));
  }
  Tensor integers = Tensor::empty(codes.shape);
  const uint8_t* bytes = codes.codes.data<uint8_t>();
  float* out = integers.data<float>();
  for (int64_t row = 0; row < codes.rows(); ++row, bytes += packed_row_bytes(codes.cols())) {
    for (int64_t col = 0; col < codes.cols(); ++col) {
      *out++ = integer_of(bytes[col / 2] >> (4 * (col % 2)) & 15, codes.format == Format::int4);
    }
  }
  return integers;
}

Tensor pack_flat(const Tensor& integers) {
  Tensor packed = Tensor::zeros({packed_row_bytes(integers.numel())}, DType::uint8);
  for (int64_t i = 0; i < integers.numel(); ++i) {
    const int code = static_cast<int>(integers.data<float>()[i]) & 15;
    packed.data<uint8_t>()[i / 2] = static_cast<uint8_t>(packed.data<uint8_t>()[i / 2] | code << (4 * (i % 2)));
  }
  return packed;
}

Tensor unpack_flat_int4(const Tensor& packed, const Shape& shape) {
  if (packed.dtype() != DType::uint8 || packed.numel() != packed_row_bytes(shape.numel())) {
    fail("[packing] expected {} bytes of codes for shape {}, got {}", packed_row_bytes(shape.numel()), to_string(shape),
         packed.numel());
  }
  Tensor integers = Tensor::empty(shape);
  for (int64_t i = 0; i < integers.numel(); ++i) {
    integers.data<float>()[i] = integer_of(packed.data<uint8_t>()[i / 2] >> (4 * (i % 2)) & 15, true);
  }
  return integers;
}

}  // namespace luq
