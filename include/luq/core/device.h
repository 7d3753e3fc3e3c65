// Where a tensor lives and where kernels run.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace luq {

enum class DeviceType : uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

std::string to_string(const Device& device);  // "cpu", "cuda:0"

// The table of kernels of a device (kernels/kernels.h), chosen once: the CPU's from cpuid, capped by
// LUQ_KERNELS=ref|avx2|avx512|vnni|bf16 (another value is a UserError). cuda throws UserError in a build without CUDA.
struct Kernels;
const Kernels& kernels_for(Device device);
// (entry, implementation) in the order of the contract.
std::vector<std::pair<std::string, std::string>> describe(const Kernels& kernels);

}  // namespace luq
