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
// Memory of a device that is not the host's. All of it happens in the order of the calls, together with the kernels.
struct DeviceMemory {
  void* (*allocate)(int64_t bytes);                              // 256-byte aligned; null when there is none left
  void (*deallocate)(void* pointer);                             // once everything before is done
  void (*to_device)(void* to, const void* from, int64_t bytes);  // `from` may be changed afterwards
  void (*to_host)(void* to, const void* from, int64_t bytes);    // is there afterwards
  void (*within_device)(void* to, const void* from, int64_t bytes);
  void (*clear)(void* to, int64_t bytes);  // zeros
  void (*wait)();                          // until all that was asked of the device is done
};
// Null for the CPU. Throws like kernels_for.
const DeviceMemory* device_memory(Device device);
// (entry, implementation) in the order of the contract.
std::vector<std::pair<std::string, std::string>> describe(const Kernels& kernels);

}  // namespace luq
