// There are no libraries under emulation: float layers run on the kernels of conv.cu.
#pragma once

#include <string>

#include "kernels/kernels.h"

namespace luq::kernels::cuda {

constexpr bool kHasLibraries = false;

inline void add_libraries(Kernels&) {}
inline void add_cublaslt_int8(Kernels&) {}
inline void open_libraries() {}
inline std::string library_versions() { return ""; }

}  // namespace luq::kernels::cuda
