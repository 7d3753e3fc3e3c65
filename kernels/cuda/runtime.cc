#include "kernels/cuda/runtime.h"

#include "luq/core/error.h"

namespace luq::kernels::cuda {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  const std::string text = fmt::format("[cuda] {}: {}: {}", what, cudaGetErrorName(error), cudaGetErrorString(error));
  if (error != cudaErrorMemoryAllocation) throw Error(text);
  cudaGetLastError();  // not a broken device
  throw OutOfMemory(text);
}

void fail_call(const char* library, const char* call, const std::string& text) {
  fail("[{}] {}: {}", library, call, text);
}

void fail_unusable(const std::string& problem) { fail_user("{}", problem); }

cudaStream_t stream() {
  static const cudaStream_t the_stream = [] {
    cudaStream_t created = nullptr;
    check(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking), "making a stream");
    return created;
  }();
  return the_stream;
}

void synchronize(const char* what) { check(cudaStreamSynchronize(stream()), what); }

const void* read_back_bytes(const void* device, int64_t bytes, const char* what) {
  static void* const memory = [] {
    void* pinned = nullptr;
    check(cudaMallocHost(&pinned, kMostReadBack), "allocating pinned memory");
    return pinned;
  }();
  check(cudaMemcpyAsync(memory, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream()), what);
  synchronize(what);
  return memory;
}

namespace {

// The largest calls come in the first step, so that room to grow would only be lost.
constexpr int64_t kScratchUnit = 1 << 16;
void* scratch_memory = nullptr;
int64_t scratch_size = 0;

}  // namespace

void* scratch(int64_t bytes) {
  if (bytes > scratch_size) {
    synchronize("growing the scratch memory");
    check(cudaFree(scratch_memory), "growing the scratch memory");
    scratch_memory = nullptr;
    scratch_size = 0;
    const int64_t rounded = blocks_for(bytes, kScratchUnit) * kScratchUnit;
    cudaError_t error = cudaMalloc(&scratch_memory, static_cast<size_t>(rounded));
    if (error == cudaErrorMemoryAllocation) {  // the tensors' pool may hold what is free
      cudaGetLastError();
      cudaMemPool_t pool = nullptr;
      check(cudaDeviceGetDefaultMemPool(&pool, 0), "looking for the pool of device memory");
      check(cudaMemPoolTrimTo(pool, 0), "giving back device memory");
      error = cudaMalloc(&scratch_memory, static_cast<size_t>(rounded));
    }
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      scratch_memory = nullptr;
      throw OutOfMemory(fmt::format("[cuda] out of memory: {} bytes wanted for the kernels' scratch memory", rounded));
    }
    check(error, "growing the scratch memory");
    scratch_size = rounded;
  }
  return scratch_memory;
}

int64_t scratch_bytes() { return scratch_size; }

}  // namespace luq::kernels::cuda
