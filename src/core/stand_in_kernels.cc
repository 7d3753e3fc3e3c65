#include "luq/core/stand_in_kernels.h"

#include "kernels/kernels.h"

namespace luq {

StandInKernels::StandInKernels(const Kernels& kernels, StandIn how) : kernels_(std::make_unique<Kernels>(kernels)) {
#define LUQ_STAND_IN(name, Args)                                           \
  if (kernels.name && how == StandIn::preparing && kernels.name.prepare) { \
    kernels_->name.run = kernels.name.prepare;                             \
  } else if (kernels.name) {                                               \
    kernels_->name.run = [](const kernels::Args&) {};                      \
  }
  LUQ_KERNEL_ENTRIES(LUQ_STAND_IN)
#undef LUQ_STAND_IN
}

StandInKernels::~StandInKernels() = default;

}  // namespace luq
