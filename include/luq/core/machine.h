// What this machine can do at most, and so how near a computation comes to it.
#pragma once

#include "luq/core/profile.h"
#include "luq/core/tensor.h"

namespace luq {

// Rates of all threads together. 0: not known, the kernel table has no instruction of that kind.
struct MachineLimits {
  double int8 = 0;      // operations/s of the 4-bit matmuls' multipliers; a multiply-accumulate is two
  double float32 = 0;   // operations/s
  double bfloat16 = 0;  // operations/s
  double read = 0;      // bytes/s from memory, of tensors larger than the caches
  int threads = 1;

  // Some rate was measured: kernels without peak_* entries, a device's among them, have none.
  bool known() const { return int8 > 0 || float32 > 0 || bfloat16 > 0 || read > 0; }
  // The shortest time for this work: the longer of computing and of moving `bytes` at the read rate. Tensors that stay
  // in a cache may move faster.
  double seconds(ComputeUnit unit, double operations, double bytes) const;
  double seconds(const KernelRecord& record) const;
};

// Measures for about a fifth of a second with as many threads as OpenMP would use, and the kernels' own instructions.
MachineLimits probe_machine(const Kernels& kernels);

// The larger of each rate: what disturbed one measurement made it smaller.
MachineLimits faster(const MachineLimits& a, const MachineLimits& b);

// Reads all of a tensor once, with all threads, and does nothing else; nothing where the table has no peak_read.
void read_memory(const Kernels& kernels, const Tensor& tensor);

// "int8 905 GOP/s, float32 226 GFLOP/s, bfloat16 455 GFLOP/s, reading 38.0 GB/s, 2 threads"
std::string to_string(const MachineLimits& limits);

}  // namespace luq
