#include "kernels/kernels.h"
#include "src/core/no_memory.h"

namespace luq {

void check_kernel_memory(const char* implementation) {
  const int64_t bytes = kernels::take_noted_bytes();
  if (bytes >= 0) fail_out_of_memory(std::string("[kernel] ") + implementation + ":", bytes);
}

}  // namespace luq
