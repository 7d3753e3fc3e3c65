// cuDNN and cublasLt for float convolutions and matrix products, over the kernels of conv.cu.
#pragma once

#include <string>

#include "kernels/kernels.h"

namespace luq::kernels::cuda {

constexpr bool kHasLibraries = true;

// Replaces conv_forward, conv_backward_data and conv_backward_weight, which stay what runs where a library will not.
void add_libraries(Kernels& table);
// Replaces the 4-bit matmuls by cublasLt's int8 product where they are plain ones (kernels/cuda/int8_matmul.h).
void add_cublaslt_int8(Kernels& table);
// Loads the libraries and makes their handles, so that one that is missing or too old is told at start. Throws
// UserError for such a one, Error where a handle cannot be made.
void open_libraries();
// "; cuDNN 9.19.0, cublasLt 13.1.0", or why one cannot be used. Loads them.
std::string library_versions();

}  // namespace luq::kernels::cuda
