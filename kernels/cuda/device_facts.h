// A CUDA device must be as this file says for the kernels to run, or a user is told what is wrong with it.
#pragma once

#include <fmt/format.h>

#include <string>

namespace luq::kernels::cuda {

constexpr int kLeastMajor = 8;  // mma.sync.m16n8k32 of int8, cp.async, bfloat16

// The driver and the runtime say this. Versions are as CUDA writes them: 13000 is 13.0.
struct DeviceFacts {
  int driver = 0;  // the newest CUDA that it supports; 0: there is none
  int runtime = 0;
  int devices = 0;
  std::string devices_error;  // of counting them
  std::string name;           // of the first device
  int major = 0, minor = 0;   // its compute capability
  std::string probe_error;    // of running the smallest kernel
  bool has_image = true;      // for this device, in this program
};

inline std::string version_text(int number) { return fmt::format("{}.{}", number / 1000, number % 1000 / 10); }

// Why the kernels cannot run, and what to do; empty when they can.
inline std::string why_unusable(const DeviceFacts& f) {
  const char* cpu = "or train with device=cpu";
  if (f.driver == 0) {
    return fmt::format("[cuda] expected an NVIDIA driver, got none; install one for CUDA {} or newer, {}",
                       version_text(f.runtime), cpu);
  }
  if (f.driver / 1000 < f.runtime / 1000) {  // within a major version any driver will do
    return fmt::format("[cuda] expected a driver for CUDA {}.0 or newer, got one for {}; install a newer driver, {}",
                       f.runtime / 1000, version_text(f.driver), cpu);
  }
  if (f.devices == 0) {
    return fmt::format("[cuda] expected a device, got none{}; look at nvidia-smi and CUDA_VISIBLE_DEVICES, {}",
                       f.devices_error.empty() ? "" : " (" + f.devices_error + ")", cpu);
  }
  if (f.major < kLeastMajor) {
    return fmt::format("[cuda] expected compute capability {}.0 or above, got {}.{} ({}); take another device, {}",
                       kLeastMajor, f.major, f.minor, f.name, cpu);
  }
  if (!f.has_image) {
    return fmt::format(
        "[cuda] expected kernels for compute capability {0}.{1} ({2}), got none in this build; build with "
        "-DCMAKE_CUDA_ARCHITECTURES={0}{1}, {3}",
        f.major, f.minor, f.name, cpu);
  }
  if (!f.probe_error.empty()) {
    return fmt::format("[cuda] expected {} to run a kernel, got {}; look at nvidia-smi, {}", f.name, f.probe_error,
                       cpu);
  }
  return "";
}

}  // namespace luq::kernels::cuda
