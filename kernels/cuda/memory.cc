// Device memory by the runtime's own stream-ordered allocator, whose pool keeps what is freed; copies on the stream of
// the kernels, and uploads on a second one.
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

// Unless it is told otherwise, the pool gives what is free back to the system whenever the device is waited for.
void keep_freed_memory() {
  cudaMemPool_t pool = nullptr;
  uint64_t most = UINT64_MAX;
  check(cudaDeviceGetDefaultMemPool(&pool, 0), "looking for the pool of device memory");
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &most), "setting up the pool of device memory");
}

void* allocate(int64_t bytes) {
  [[maybe_unused]] static const bool once = (keep_freed_memory(), true);
  void* pointer = nullptr;
  const cudaError_t error = cudaMallocAsync(&pointer, static_cast<size_t>(std::max<int64_t>(bytes, 1)), stream());
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not a broken device
    return nullptr;
  }
  check(error, "allocating device memory");
  return pointer;
}

// Called by destructors. It fails on a device that an earlier error broke, which the call that found it has reported.
void deallocate(void* pointer) { cudaFreeAsync(pointer, stream()); }

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

void* allocate_pinned(int64_t bytes) {
  void* pinned = nullptr;
  const cudaError_t error = cudaMallocHost(&pinned, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(error, "allocating pinned memory");
  return pinned;
}

// `called` is recorded on the kernels' stream when an upload is asked for, `uploaded` on the copies' when it is queued.
struct Uploads {
  cudaStream_t stream = nullptr;
  cudaEvent_t called = nullptr, uploaded = nullptr;
};

const Uploads& uploads() {
  static const Uploads the_uploads = [] {
    Uploads u;
    check(cudaStreamCreateWithFlags(&u.stream, cudaStreamNonBlocking), "making a stream for copies");
    check(cudaEventCreateWithFlags(&u.called, cudaEventDisableTiming), "making an event");
    check(cudaEventCreateWithFlags(&u.uploaded, cudaEventDisableTiming), "making an event");
    return u;
  }();
  return the_uploads;
}

void start_upload(void* to, const void* pinned, int64_t bytes) {
  if (bytes == 0) return;
  const Uploads& u = uploads();
  check(cudaEventRecord(u.called, stream()), "an upload");  // `to` may be memory that a kernel still reads
  check(cudaStreamWaitEvent(u.stream, u.called, 0), "an upload");
  check(cudaMemcpyAsync(to, pinned, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, u.stream), "an upload");
  check(cudaEventRecord(u.uploaded, u.stream), "an upload");
}

void join_uploads() { check(cudaStreamWaitEvent(stream(), uploads().uploaded, 0), "waiting for an upload"); }

void wait_for_uploads() { check(cudaEventSynchronize(uploads().uploaded), "waiting for an upload"); }

}  // namespace

const DeviceMemory& memory() {
  static const DeviceMemory device_memory{.allocate = allocate,
                                          .deallocate = deallocate,
                                          .to_device = to_device,
                                          .to_host = to_host,
                                          .within_device = within_device,
                                          .clear = clear,
                                          .wait = wait,
                                          .scratch_bytes = scratch_bytes,
                                          .allocate_pinned = allocate_pinned,
                                          .start_upload = start_upload,
                                          .join_uploads = join_uploads,
                                          .wait_for_uploads = wait_for_uploads};
  return device_memory;
}

}  // namespace luq::kernels::cuda
