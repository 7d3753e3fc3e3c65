// Safetensors files, by way of a file in memory.
#include <sys/mman.h>
#include <unistd.h>

#include "luq/core/error.h"
#include "luq/core/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int descriptor = ::memfd_create("fuzz", 0);
  static const std::string file = "/proc/self/fd/" + std::to_string(descriptor);
  if (::ftruncate(descriptor, 0) != 0 || ::pwrite(descriptor, data, size, 0) != static_cast<ssize_t>(size))
    __builtin_trap();
  try {
    const luq::SafeTensors content = luq::load_safetensors(file);
    for (const auto& [name, tensor] : content.tensors) {
      if (tensor.numel() > 0) {
        volatile uint8_t last = static_cast<const uint8_t*>(tensor.raw())[tensor.bytes() - 1];
        static_cast<void>(last);
      }
    }
  } catch (const luq::UserError&) {
  }
  return 0;
}
