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

}  // namespace luq::kernels
