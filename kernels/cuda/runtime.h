// The CUDA kernels' host side shares checked calls, launches, the stream of a device, and scratch memory.
#pragma once

#include <cuda_runtime.h>
#include <luq_cuda/launch_name.h>

#include <cstdint>
#include <cstring>
#include <string>

namespace luq::kernels::cuda {

// Throws Error `[cuda] <what>: ...` with CUDA's name and text for the error, OutOfMemory where it is that.
void check(cudaError_t error, const char* what);
// Throws Error `[library] call: text`.
[[noreturn]] void fail_call(const char* library, const char* call, const std::string& text);
// Throws UserError with what why_unusable says of a library.
[[noreturn]] void fail_unusable(const std::string& problem);

// The stream on which everything of this process runs, in order.
cudaStream_t stream();
void synchronize(const char* what);

// Device memory that the next call reuses: for what one entry hands from kernel to kernel on stream().
void* scratch(int64_t bytes);
// The most that was asked for: so much is held.
int64_t scratch_bytes();
template <typename T>
T* scratch_of(int64_t count) {
  return static_cast<T*>(scratch(count * static_cast<int64_t>(sizeof(T))));
}

// Copies `bytes`, at most kMostReadBack, back into pinned memory, and waits for them. They are there until the next
// call.
constexpr int64_t kMostReadBack = 8192;
const void* read_back_bytes(const void* device, int64_t bytes, const char* what);
template <typename T>
T read_back(const T* device, const char* what) {
  static_assert(sizeof(T) <= kMostReadBack);
  T value;
  std::memcpy(&value, read_back_bytes(device, sizeof value, what), sizeof value);
  return value;
}

struct LaunchShape {
  int64_t blocks = 0;
  int threads = 256;
  int64_t shared_bytes = 0;
};

// Nothing happens for 0 blocks.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape, Arguments&&... arguments) {
  if (shape.blocks == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream();
  luq::device::name_next_launch(name);
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

constexpr int64_t blocks_for(int64_t items, int64_t per_block) { return (items + per_block - 1) / per_block; }

}  // namespace luq::kernels::cuda
