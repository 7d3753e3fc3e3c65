#include "kernels/kernels.h"
#include "src/core/no_memory.h"

namespace luq {
void check_kernel_memory(const char* implementation) {
  const int64_t bytes = kernels::take_noted_bytes();
  if (bytes >= 0) fail_out_of_memory(std::string("[kernel] ") + implementation + ":", bytes);
}

Kernels preparing_kernels(const Kernels& kernels) {
  Kernels preparing = kernels;
#define LUQ_PREPARE_ENTRY(name, Args)                                                      \
  if (kernels.name) {                                                                      \
    preparing.name.run = kernels.name.prepare;                                             \
    if (kernels.name.prepare == nullptr) preparing.name.run = [](const kernels::Args&) {}; \
  }
  LUQ_KERNEL_ENTRIES(LUQ_PREPARE_ENTRY)
#undef LUQ_PREPARE_ENTRY
  return preparing;
}

}  // namespace luq
