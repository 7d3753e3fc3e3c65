// Convolutions by cuDNN's graph interface.
#pragma once

#include <cudnn.h>

#include <memory>
#include <optional>

#include "kernels/cuda/library_shapes.h"

namespace luq::kernels::cuda {

// One of cuDNN's descriptors, destroyed with its owner.
class CudnnDescriptor {
 public:
  explicit CudnnDescriptor(cudnnBackendDescriptorType_t type);
  cudnnBackendDescriptor_t get() const { return descriptor_.get(); }
  template <typename T>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const T* values, int64_t count) {
    set_bytes(name, type, values, count);
  }
  template <typename T>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const T& value) {
    set_bytes(name, type, &value, 1);
  }
  void set(cudnnBackendAttributeName_t name, const CudnnDescriptor& other);
  // False where cuDNN does not support what is described; throws for any other failure.
  bool finalize();

 private:
  void set_bytes(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const void* values, int64_t count);

  std::unique_ptr<void, void (*)(void*)> descriptor_;
};

struct CudnnProblem {
  ConvPass pass;
  ConvShape shape;
  bool bfloat16;      // operands
  bool float_result;  // float32 beside operands of bfloat16
};

// For whom plans are made: an open device, or the description of one that is not there.
struct CudnnTarget {
  cudnnHandle_t handle = nullptr;
  cudnnBackendDescriptor_t device = nullptr;
};

struct CudnnPlan {
  CudnnDescriptor plan;
  int64_t workspace_bytes;
};

// Pointers are at multiples of this.
constexpr int64_t kLibraryAlignment = 16;

// The first engine of cuDNN's heuristics that is deterministic, computes in float32, without TF32 where the operands
// are float32, and needs no more workspace than 256 MiB and 8 bytes an element of x, w and y. Nothing where there is
// none.
std::optional<CudnnPlan> plan_convolution(const CudnnTarget& target, const CudnnProblem& problem);

// The operands in the order x, w, y, of which the pass writes one.
void run_plan(cudnnHandle_t handle, const CudnnPlan& plan, const void* x, const void* w, const void* y,
              void* workspace);

void check_cudnn(cudnnStatus_t status, const char* call);

}  // namespace luq::kernels::cuda
