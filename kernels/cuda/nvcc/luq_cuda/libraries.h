// cuDNN and cublasLt for float convolutions and matrix products, over the kernels of conv.cu.
#pragma once

#include <string>

#include "kernels/kernels.h"

namespace luq::kernels::cuda {

constexpr bool kHasLibraries = true;

// Replaces conv_forward, conv_backward_data and conv_backward_weight, which stay what runs where a library will not.
void add_libraries(Kernels& table);
// Makes the libraries' handles, so that one that is missing or too old is told at start. Throws Error.
void open_libraries();
// "; cuDNN 9.19.0, cublasLt 13.1.0"
std::string library_versions();

}  // namespace luq::kernels::cuda
