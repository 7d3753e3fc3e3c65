// int8 products of the sizes of our 4-bit ones, by the library of a device. Each function makes operands of ones and
// returns what multiplies them.
#pragma once

#include <cstdint>
#include <functional>

#include "luq/core/conv_shape.h"

namespace luq::bench {

using Peer = std::function<void()>;

// oneDNN on the CPU, u8 x s8 -> s32, with operands in the layouts that it asks for.
Peer onednn_matmul(int64_t rows, int64_t columns, int64_t terms);
Peer onednn_conv(const ConvShape& shape);

// cuBLASLt on a CUDA device, by the fastest of the algorithms that it proposes, without waiting for the end: s8 x s8 ->
// s32 and bfloat16 -> bfloat16. Throws Error where a sample of the results is wrong. Null in a build without cuBLASLt,
// and for sizes that it does not take.
Peer cublaslt_int8_matmul(int64_t rows, int64_t columns, int64_t terms);
Peer cublaslt_bfloat16_matmul(int64_t rows, int64_t columns, int64_t terms);

}  // namespace luq::bench
