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
// cpu or cuda, the first of them. Throws UserError for another name.
Device parse_device(const std::string& name);

// The table of kernels of a device (kernels/kernels.h), chosen once: the CPU's from cpuid, capped by
// LUQ_KERNELS=ref|avx2|avx512|vnni|bf16, a device's from what was built in, or as LUQ_CUDA_KERNELS names it (another
// value is a UserError). A UserError tells what cuda lacks.
struct Kernels;
const Kernels& kernels_for(Device device);
// This build has kernels for the device, and this machine the device.
bool is_available(Device device);
// What a CUDA device is, in a line: name, compute capability, memory; or why there is none, in this build or this
// machine. With the versions of driver, runtime and libraries, or why one of these cannot be used.
std::string describe_cuda();
// Memory of a device that is not the host's. All of it happens in the order of the calls, together with the kernels.
struct DeviceMemory {
  void* (*allocate)(int64_t bytes);                              // 256-byte aligned; null when there is none left
  void (*deallocate)(void* pointer);                             // once everything before is done
  void (*to_device)(void* to, const void* from, int64_t bytes);  // `from` may be changed afterwards
  void (*to_host)(void* to, const void* from, int64_t bytes);    // is there afterwards
  void (*within_device)(void* to, const void* from, int64_t bytes);
  void (*clear)(void* to, int64_t bytes);  // zeros
  void (*wait)();                          // until all that was asked of the device is done
  int64_t (*scratch_bytes)();              // what kernels hold for themselves between calls

  // Copies beside the kernels, in an order of their own.
  // Memory of the host that they may come from, called from any thread; null when there is none left. Never given back.
  void* (*allocate_pinned)(int64_t bytes);
  // Begins when everything before is done, and goes on beside what follows. `pinned` stays as it is until
  // wait_for_uploads() has returned, and `to` is of no use before join_uploads().
  void (*start_upload)(void* to, const void* pinned, int64_t bytes);
  void (*join_uploads)();      // what is called from here on comes after the uploads that were started
  void (*wait_for_uploads)();  // returns when they are done
};
// Null for the CPU. Throws like kernels_for.
const DeviceMemory* device_memory(Device device);
// (entry, implementation) in the order of the contract.
std::vector<std::pair<std::string, std::string>> describe(const Kernels& kernels);

}  // namespace luq
