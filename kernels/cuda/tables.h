// What select.cc assembles for a CUDA device: each function fills the entries that its file implements.
#pragma once

#include "kernels/kernels.h"

namespace luq::kernels::cuda {

void add_quantize(Kernels& table);
void add_qconv(Kernels& table);
void add_conv(Kernels& table);       // float convolutions, plain and deterministic
void add_norm(Kernels& table);       // batch norm and layer norm
void add_pointwise(Kernels& table);  // convert, ReLU, GELU, add, dropout, column sums
void add_rows(Kernels& table);       // copies of rows, moving average, the end of batch norm's moments
void add_pool(Kernels& table);
void add_loss(Kernels& table);       // cross-entropy
void add_optimizer(Kernels& table);  // SGD, AdamW
void add_attention(Kernels& table);
void add_images(Kernels& table);  // from bytes to floats

const DeviceMemory& memory();

}  // namespace luq::kernels::cuda
