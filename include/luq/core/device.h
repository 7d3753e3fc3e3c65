// Where a tensor lives and where kernels run.
#pragma once

#include <cstdint>
#include <string>

namespace luq {

enum class DeviceType : uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

std::string to_string(const Device& device);  // "cpu", "cuda:0"

}  // namespace luq
