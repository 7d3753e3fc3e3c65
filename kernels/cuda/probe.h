#pragma once

#include <cuda_runtime.h>

namespace luq::kernels::cuda {

// Runs the smallest kernel there is and waits for it.
cudaError_t run_probe();

}  // namespace luq::kernels::cuda
