// A table of kernels that stands in for another: a pass of a model through it costs next to nothing and computes
// nothing, and still has the shapes of a real one and the memory of its tensors.
#pragma once

#include <memory>

#include "luq/core/device.h"

namespace luq {

// Nothing at all, or what a kernel can do before its first call: get its scratch memory and make what it keeps. Results
// stay as they are, so statistics are those of zeros and other values undefined.
enum class StandIn { idle, preparing };

class StandInKernels {
 public:
  StandInKernels(const Kernels& kernels, StandIn how);
  ~StandInKernels();

  // Calls throw OutOfMemory as those of the other table do.
  const Kernels& kernels() const { return *kernels_; }

 private:
  std::unique_ptr<Kernels> kernels_;
};

}  // namespace luq
