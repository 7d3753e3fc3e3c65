// select.cc assembles a CUDA device's table from these: each function fills the entries that its file implements.
#pragma once

#include <string>

#include "kernels/kernels.h"

namespace luq::kernels::cuda {

void add_quantize(Kernels& table);
void add_qconv_forward(Kernels& table);
void add_qconv_backward_data(Kernels& table);
void add_qconv_backward_weight(Kernels& table);
void add_conv(Kernels& table);  // float convolutions, plain and deterministic
void add_batch_norm(Kernels& table);
void add_layer_norm(Kernels& table);
void add_pointwise(Kernels& table);  // convert, ReLU, GELU, add, dropout, column sums
void add_rows(Kernels& table);       // copies of rows, moving average, the end of batch norm's moments
void add_pool(Kernels& table);
void add_loss(Kernels& table);       // cross-entropy
void add_optimizer(Kernels& table);  // SGD, AdamW
void add_attention(Kernels& table);
void add_images(Kernels& table);  // from bytes to floats

const DeviceMemory& memory();

// Why the kernels cannot run here, and what to do; empty when they can. Finds out once.
const std::string& device_problem();
// One line for people: what the device is, or why there is none.
std::string description();

}  // namespace luq::kernels::cuda
