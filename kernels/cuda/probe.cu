// The first kernel that runs: it shows whether the device takes any of this program's, and does nothing.
#include "kernels/cuda/probe.h"

#include <luq_cuda/launch_name.h>

namespace luq::kernels::cuda {
namespace {

__global__ void do_nothing(int) {}

}  // namespace

cudaError_t run_probe() {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(32);
  luq::device::name_next_launch("probe");
  if (const cudaError_t error = cudaLaunchKernelEx(&config, do_nothing, 0); error != cudaSuccess) {
    cudaGetLastError();  // told by the result, and by nothing else
    return error;
  }
  return cudaDeviceSynchronize();
}

}  // namespace luq::kernels::cuda
