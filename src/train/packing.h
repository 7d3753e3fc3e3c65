// 4-bit codes as they stand in files: flat over the whole tensor, two a byte, low nibble first (docs/numerics.md).
#pragma once

#include "luq/quant/qtensor.h"

namespace luq {

// The codes 0..15 of one encoding in any format, as float32 of its shape, so that they can be put into another layout.
// Throws Error for a sum of several encodings, which a file has no form for.
Tensor code_numbers(const QTensor& q);
// Codes, flat (U8); the last byte's high nibble is 0 where their number is odd.
Tensor pack_flat(const Tensor& numbers);
// The values that flat codes of this format stand for, of this shape. Throws Error when the number of bytes is not the
// shape's.
Tensor unpack_flat(const Tensor& packed, const Shape& shape, Format format, float scale);

}  // namespace luq
