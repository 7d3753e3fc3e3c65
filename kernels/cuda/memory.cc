// Device memory by the runtime's own stream-ordered allocator, whose pool keeps what is freed.
#include <algorithm>

#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"

namespace luq::kernels::cuda {
namespace {

// Pinned memory through which copies from the host go in pieces, so that the caller's may be changed at once.
constexpr int64_t kStagingBytes = int64_t{4} << 20;

void* staging() {
  static void* const memory = [] {
    void* pinned = nullptr;
    check(cudaMallocHost(&pinned, kStagingBytes), "allocating pinned memory");
    return pinned;
  }();
  return memory;
}

void* allocate(int64_t bytes) {
  void* pointer = nullptr;
  const cudaError_t error = cudaMallocAsync(&pointer, static_cast<size_t>(std::max<int64_t>(bytes, 1)), stream());
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not a broken device
    return nullptr;
  }
  check(error, "allocating device memory");
  return pointer;
}

void deallocate(void* pointer) { check(cudaFreeAsync(pointer, stream()), "freeing device memory"); }

void to_device(void* to, const void* from, int64_t bytes) {
  for (int64_t done = 0; done < bytes; done += kStagingBytes) {
    const auto piece = static_cast<size_t>(std::min(kStagingBytes, bytes - done));
    synchronize("a copy to the device");  // the last piece has left
    std::copy_n(static_cast<const char*>(from) + done, piece, static_cast<char*>(staging()));
    check(cudaMemcpyAsync(static_cast<char*>(to) + done, staging(), piece, cudaMemcpyHostToDevice, stream()),
          "a copy to the device");
  }
}

void to_host(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream()), "a copy to the host");
  synchronize("a copy to the host");
}

void within_device(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream()), "a copy");
}

void clear(void* to, int64_t bytes) {
  if (bytes > 0) check(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), stream()), "clearing memory");
}

void wait() { synchronize("waiting for the device"); }

}  // namespace

const DeviceMemory& memory() {
  static const DeviceMemory device_memory{allocate, deallocate, to_device, to_host, within_device, clear, wait};
  return device_memory;
}

}  // namespace luq::kernels::cuda
