// 4-bit codes as they stand in files: flat over the whole tensor, two a byte, low nibble first (docs/numerics.md).
#pragma once

#include "luq/quant/qtensor.h"

namespace luq {

// The integers -7..7 or 0..15 that int4 or uint4 codes stand for, as float32 of codes.shape.
Tensor decode_integers(const QTensor& codes);
// Their codes, flat (U8); the last byte's high nibble is 0 where their number is odd.
Tensor pack_flat(const Tensor& integers);
// The inverse for int4: integers of this shape. Throws Error when the number of bytes is not the shape's.
Tensor unpack_flat_int4(const Tensor& packed, const Shape& shape);

}  // namespace luq
