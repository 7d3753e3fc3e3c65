// What select.cc assembles: each function overwrites the entries that its file implements.
#pragma once

#include "kernels/kernels.h"

namespace luq::kernels {

void add_ref_quantize(Kernels& table);
void add_ref_qconv(Kernels& table);
void add_ref_float(Kernels& table);
void add_avx2_quantize(Kernels& table);
void add_avx2_qconv(Kernels& table);
void add_avx2_float(Kernels& table);
void add_avx512_quantize(Kernels& table);
void add_avx512_qconv(Kernels& table);
void add_avx512_float(Kernels& table);
void add_avx512vnni_qconv(Kernels& table);
void add_onednn(Kernels& table);

// The scalar 4-bit matmuls, for the shapes that vector kernels leave to them (sums past the int32 bound).
void ref_qconv_forward(const QConvForwardArgs& args);
void ref_qconv_backward_data(const QConvBackwardDataArgs& args);
void ref_qconv_backward_weight(const QConvBackwardWeightArgs& args);

}  // namespace luq::kernels
