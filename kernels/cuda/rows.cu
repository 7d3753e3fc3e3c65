// Small kernels that are bound by memory or by their launch: copies of rows, the moving average of weights, and what
// follows from the moments of a batch.
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"

namespace luq::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// Unit: uint4, uint32_t or uint8_t, whichever rows and strides are multiples of. Thread i copies unit i of all rows.
template <typename Unit>
__global__ void __launch_bounds__(kThreads)
    copy_units(const char* from, int64_t from_stride, int64_t rows, int64_t units, int64_t to_stride, char* to) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= rows * units) return;
  const int64_t row = i / units, unit = i % units;
  reinterpret_cast<Unit*>(to + row * to_stride)[unit] = reinterpret_cast<const Unit*>(from + row * from_stride)[unit];
}

void copy_rows(const CopyRowsArgs& a) {
  const auto* from = static_cast<const char*>(a.from);
  auto* to = static_cast<char*>(a.to);
  const uintptr_t all = reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to) |
                        static_cast<uintptr_t>(a.from_stride | a.to_stride | a.bytes);
  const int64_t unit = all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 1;
  const LaunchShape shape{.blocks = blocks_for(a.rows * (a.bytes / unit), kThreads), .threads = kThreads};
  const auto copy = unit == 16 ? copy_units<uint4> : unit == 4 ? copy_units<uint32_t> : copy_units<uint8_t>;
  launch("copy_rows", copy, shape, from, a.from_stride, a.rows, a.bytes / unit, a.to_stride, to);
}

__global__ void __launch_bounds__(kThreads)
    average_values(const float* value, int64_t count, float decay, float rest, float* average) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) average[i] = decay * average[i] + rest * value[i];
}

void moving_average(const MovingAverageArgs& a) {
  const LaunchShape shape{.blocks = blocks_for(a.count, kThreads), .threads = kThreads};
  launch("moving_average", average_values, shape, a.value, a.count, a.decay, a.rest, a.average);
}

__global__ void __launch_bounds__(kThreads) finish_moments(BatchNormFinishArgs a) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= a.c) return;
  const float variance = a.variance[c], mean = a.mean[c];
  a.inverse_std[c] = 1.0f / sqrtf(variance + a.eps);
  if (a.running_mean == nullptr) return;
  a.running_mean[c] = (1 - a.momentum) * a.running_mean[c] + a.momentum * mean;
  a.running_variance[c] = (1 - a.momentum) * a.running_variance[c] + a.momentum * (a.variance_factor * variance);
}

void batch_norm_finish(const BatchNormFinishArgs& a) {
  launch("batch_norm_finish", finish_moments, {.blocks = blocks_for(a.c, kThreads), .threads = kThreads}, a);
}

}  // namespace

void add_rows(Kernels& table) {
  table.copy_rows = {copy_rows, "cuda"};
  table.moving_average = {moving_average, "cuda"};
  table.batch_norm_finish = {batch_norm_finish, "cuda"};
}

}  // namespace luq::kernels::cuda
