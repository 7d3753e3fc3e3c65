#include <fmt/format.h>
#include <luq_cuda/libraries.h>

#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"

namespace luq::kernels::cuda {
namespace {

std::string version(cudaError_t (*ask)(int*)) {
  int number = 0;
  if (ask(&number) != cudaSuccess || number == 0) return "none";
  return version_text(number);
}

double gibibytes(size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

}  // namespace

std::string description() {
  const std::string versions = fmt::format("driver for CUDA {}, runtime {}{}", version(cudaDriverGetVersion),
                                           version(cudaRuntimeGetVersion), library_versions());
  int devices = 0;
  cudaError_t error = cudaGetDeviceCount(&devices);
  cudaDeviceProp device{};
  if (error == cudaSuccess) error = devices > 0 ? cudaGetDeviceProperties(&device, 0) : cudaErrorNoDevice;
  if (error != cudaSuccess) {
    cudaGetLastError();  // nothing else shall find it
    return fmt::format("no device: {} ({})", cudaGetErrorString(error), versions);
  }
  return fmt::format("{}, compute capability {}.{}, {} multiprocessors, {:.1f} GiB; {}{}", device.name, device.major,
                     device.minor, device.multiProcessorCount, gibibytes(device.totalGlobalMem), versions,
                     devices > 1 ? fmt::format("; the first of {} devices", devices) : "");
}

}  // namespace luq::kernels::cuda
