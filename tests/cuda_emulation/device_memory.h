// Device memory: a range of addresses of its own, closed to the host.
#pragma once

#include <cstddef>
#include <cstdint>

namespace luq::emulation {

// 256-byte aligned, filled with 0xcb, ending at a page that nobody may touch; null when there is none left.
void* allocate_device(size_t bytes);
// False when the pointer is not the beginning of an allocation.
bool free_device(void* pointer);
bool is_device(const void* pointer);
// The whole range lies in one allocation.
bool is_allocated(const void* pointer, size_t bytes);

// Device memory may be touched while one lives; the host may not otherwise.
class OpenDevice {
 public:
  OpenDevice();
  ~OpenDevice();
  OpenDevice(const OpenDevice&) = delete;
  OpenDevice& operator=(const OpenDevice&) = delete;
};

// "" when nothing wrote beside an allocation, else which. Call with the device open.
const char* damaged_allocation();

}  // namespace luq::emulation
