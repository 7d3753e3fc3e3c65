#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/probe.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"

namespace luq::kernels::cuda {
namespace {

std::string text_of(cudaError_t error) {
  return fmt::format("{}: {}", cudaGetErrorName(error), cudaGetErrorString(error));
}

DeviceFacts find_facts() {
  DeviceFacts facts;
  cudaDriverGetVersion(&facts.driver);
  cudaRuntimeGetVersion(&facts.runtime);
  if (const cudaError_t error = cudaGetDeviceCount(&facts.devices); error != cudaSuccess) {
    facts.devices = 0;
    facts.devices_error = text_of(error);
    return facts;
  }
  if (facts.devices == 0) return facts;
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "looking at the device");
  facts.name = properties.name;
  facts.major = properties.major;
  facts.minor = properties.minor;
  if (facts.major < kLeastMajor) return facts;
  if (const cudaError_t error = run_probe(); error != cudaSuccess) {
    facts.probe_error = text_of(error);
    facts.has_image = error != cudaErrorNoKernelImageForDevice;
  }
  return facts;
}

}  // namespace

const std::string& device_problem() {
  static const std::string problem = why_unusable(find_facts());
  return problem;
}

}  // namespace luq::kernels::cuda
