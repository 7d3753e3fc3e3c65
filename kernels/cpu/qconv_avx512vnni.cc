// 4-bit matmul tiles with vpdpbusd.

#include "kernels/cpu/qconv_tiles.h"
#include "kernels/cpu/qconv_vnni.h"
#include "kernels/tables.h"

namespace luq::kernels {

void add_avx512vnni_qconv(Kernels& table) { add_qconv<Vnni>(table, "avx512vnni"); }

}  // namespace luq::kernels
