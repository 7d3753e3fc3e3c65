// select.cc assembles tables by these functions: each overwrites the entries that its file implements.
#pragma once

#include "kernels/kernels.h"

namespace luq::kernels {

void add_ref_quantize(Kernels& table);
void add_ref_qconv(Kernels& table);
void add_ref_float(Kernels& table);
void add_ref_image(Kernels& table);
void add_avx2_quantize(Kernels& table);
void add_avx2_qconv(Kernels& table);
void add_avx2_attention(Kernels& table);
void add_avx2_float(Kernels& table);
void add_avx2_image(Kernels& table);
void add_avx2_norm(Kernels& table);
void add_avx2_peak(Kernels& table);
void add_avx512_quantize(Kernels& table);
void add_avx512_qconv(Kernels& table);
void add_avx512_attention(Kernels& table);
void add_avx512_float(Kernels& table);
void add_avx512_image(Kernels& table);
void add_avx512_norm(Kernels& table);
void add_avx512_peak(Kernels& table);
void add_avx512vnni_qconv(Kernels& table);
void add_avx512vnni_peak(Kernels& table);
void add_avx512bf16_qconv(Kernels& table);
void add_avx512bf16_peak(Kernels& table);
void add_onednn(Kernels& table);           // bfloat16 is computed in float32
void add_onednn_bfloat16(Kernels& table);  // and here as it is; for CPUs with AVX-512

// The scalar kernels that vector ones leave some inputs to: matmuls with sums past the int32 bound, grids of levels,
// stochastic rounding of tensors with more random blocks than 32 bits count, and images of uncommon numbers of
// channels.
void ref_encode(const EncodeArgs& args);
void ref_qconv_forward(const QConvForwardArgs& args);
void ref_qconv_backward_data(const QConvBackwardDataArgs& args);
void ref_qconv_backward_weight(const QConvBackwardWeightArgs& args);
void ref_resize(const ResizeArgs& args);
void ref_finish_images(const FinishImagesArgs& args);

}  // namespace luq::kernels
