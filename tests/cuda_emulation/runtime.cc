// The host's side of the stand-in: memory, streams, events and launches.
#include <cuda_runtime.h>
#include <luq_cuda/launch_name.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/cuda_emulation/device_memory.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/scheduler.h"

struct CUevent_st {
  uint64_t recorded = 0, reached = 0;
};

struct CUstream_st {
  struct Work {
    std::function<bool()> is_ready;
    std::function<void()> run;
  };
  std::deque<Work> work;
};

namespace luq::emulation {
namespace {

struct Runtime {
  uint64_t seed = 0;
  std::mt19937_64 random;
  CUstream_st default_stream;
  std::set<CUstream_st*> streams{&default_stream};
  cudaError_t error = cudaSuccess;
  std::string message;
  const char* next_name = nullptr;
};

// A number in the environment, or `otherwise`.
uint64_t number_of(const char* name, uint64_t otherwise) {
  const char* given = std::getenv(name);
  if (given == nullptr) return otherwise;
  uint64_t number = 0;
  const char* end = given + std::strlen(given);
  if (const auto [stop, error] = std::from_chars(given, end, number); error != std::errc() || stop != end) {
    throw std::invalid_argument(std::string(name) + ": expected a number, got '" + given + "'");
  }
  return number;
}

Runtime& runtime() {
  static Runtime* the_runtime = [] {
    auto* r = new Runtime;
    r->seed = number_of("LUQ_CUDA_SEED", 1);
    r->random.seed(r->seed);
    return r;
  }();
  return *the_runtime;
}

cudaError_t failure(cudaError_t error, const std::string& message) {
  Runtime& r = runtime();
  if (r.error == cudaSuccess) {
    r.error = error;
    r.message = message + " (LUQ_CUDA_SEED=" + std::to_string(r.seed) + ")";
  }
  return r.error;
}

constexpr uint64_t kMostBytes = uint64_t{1} << 40;

size_t device_bytes() {
  static const uint64_t bytes = number_of("LUQ_CUDA_EMULATED_BYTES", uint64_t{8} << 30);
  if (bytes > kMostBytes) throw std::invalid_argument("LUQ_CUDA_EMULATED_BYTES: expected at most 2^40");
  return bytes;
}

CUstream_st& stream_of(cudaStream_t stream) { return stream == nullptr ? runtime().default_stream : *stream; }

// Work of any stream whose turn it may be, until `done`.
cudaError_t run_until(const std::function<bool()>& done) {
  Runtime& r = runtime();
  if (r.error != cudaSuccess || done()) return r.error;
  const OpenDevice open;
  while (!done()) {
    std::vector<CUstream_st*> ready;
    for (CUstream_st* stream : r.streams) {
      if (!stream->work.empty() && stream->work.front().is_ready()) ready.push_back(stream);
    }
    if (ready.empty()) return failure(cudaErrorIllegalAddress, "streams wait for each other");
    CUstream_st& chosen = *ready[r.random() % ready.size()];
    const CUstream_st::Work work = std::move(chosen.work.front());
    chosen.work.pop_front();
    try {
      work.run();
    } catch (const KernelError& error) {
      return failure(cudaErrorIllegalAddress, error.what());
    }
  }
  const char* damage = damaged_allocation();
  return *damage == '\0' ? cudaSuccess : failure(cudaErrorIllegalAddress, damage);
}

cudaError_t queue(
    cudaStream_t stream, std::function<void()> run, std::function<bool()> is_ready = [] { return true; }) {
  Runtime& r = runtime();
  if (r.error != cudaSuccess) return r.error;
  stream_of(stream).work.push_back({std::move(is_ready), std::move(run)});
  return cudaSuccess;
}

// Shadow memory of AddressSanitizer is mapped and no data: two small ints that lie side by side look like its
// addresses.
#if defined(__SANITIZE_ADDRESS__)
constexpr uintptr_t kFirstData = 0x10007fff8000;
#else
constexpr uintptr_t kFirstData = 0x10000;
#endif

bool is_mapped(uintptr_t address) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return address >= kFirstData && address < (uintptr_t{1} << 47) &&
         msync(reinterpret_cast<void*>(address / page * page), 1, MS_ASYNC) == 0;
}

cudaError_t check_side(const void* pointer, size_t bytes, bool device, const char* what) {
  if (bytes == 0) return cudaSuccess;
  if (device && !is_allocated(pointer, bytes)) {
    return failure(cudaErrorInvalidValue, std::string(what) + ": expected device memory");
  }
  if (!device && is_device(pointer))
    return failure(cudaErrorInvalidValue, std::string(what) + ": expected host memory");
  return cudaSuccess;
}

}  // namespace

void set_seed(uint64_t seed) {
  runtime().seed = seed;
  runtime().random.seed(seed);
}
uint64_t seed() { return runtime().seed; }

void reset() {
  Runtime& r = runtime();
  r.error = cudaSuccess;
  r.message.clear();
  for (CUstream_st* stream : r.streams) stream->work.clear();
}

bool holds_host_pointer(const void* argument, size_t bytes) {
  for (size_t at = 0; at + sizeof(uintptr_t) <= bytes; at += sizeof(uintptr_t)) {
    uintptr_t word = 0;
    std::memcpy(&word, static_cast<const char*>(argument) + at, sizeof word);
    if (!is_device(reinterpret_cast<const void*>(word)) && is_mapped(word)) return true;
  }
  return false;
}

cudaError_t launch(const cudaLaunchConfig_t& config, std::function<void()> body, const char* host_argument) {
  Runtime& r = runtime();
  const std::string name = r.next_name != nullptr ? r.next_name : "without a name";
  r.next_name = nullptr;
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return failure(cudaErrorInvalidConfiguration, "kernel " + name + ": no device takes this grid and block");
  }
  if (config.dynamicSmemBytes > size_t{99} << 10) {
    return failure(cudaErrorInvalidConfiguration, "kernel " + name + ": more than 99 KiB of shared memory");
  }
  if (host_argument != nullptr) {
    return failure(cudaErrorInvalidValue,
                   "kernel " + name + ": an argument of type " + host_argument + " points to the host's memory");
  }
  return queue(config.stream, [name, grid, block, shared = config.dynamicSmemBytes, body = std::move(body)] {
    run_grid(name, grid, block, shared, body, runtime().random);
  });
}

}  // namespace luq::emulation

namespace luq::device {

void name_next_launch(const char* name) { emulation::runtime().next_name = name; }

}  // namespace luq::device

using namespace luq::emulation;

const char* cudaGetErrorString(cudaError_t error) {
  if (error != cudaSuccess && error == runtime().error) return runtime().message.c_str();
  return error == cudaSuccess ? "no error" : cudaGetErrorName(error);
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    default:
      return "cudaErrorInvalidValue";
  }
}

cudaError_t cudaGetLastError() { return runtime().error; }
cudaError_t cudaPeekAtLastError() { return runtime().error; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_bytes() > 0 ? 1 : 0;
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated on the CPU, a test bed and not for training");
  properties->totalGlobalMem = device_bytes();
  properties->sharedMemPerBlockOptin = size_t{99} << 10;
  properties->major = 8;
  properties->minor = 0;
  properties->multiProcessorCount = 4;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = device_bytes();
  *free = *total - std::min(*total, static_cast<size_t>(allocated_bytes()));
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (runtime().error != cudaSuccess) return runtime().error;
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  *pointer = bytes > free ? nullptr : allocate_device(bytes);
  return *pointer != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  const cudaError_t error = cudaDeviceSynchronize();
  if (!free_device(pointer)) return failure(cudaErrorInvalidValue, "cudaFree: of what is no allocation");
  return error;
}
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
  const cudaError_t error = cudaMalloc(pointer, bytes);
  if (error != cudaErrorMemoryAllocation) return error;
  // What was freed on the stream before is there for what comes after on it.
  if (const cudaError_t late = cudaStreamSynchronize(stream); late != cudaSuccess) return late;
  return cudaMalloc(pointer, bytes);
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  if (!is_allocated(pointer, 0)) return failure(cudaErrorInvalidValue, "cudaFreeAsync: of what is no allocation");
  return queue(stream, [pointer] { free_device(pointer); });
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  *pointer = std::malloc(bytes > 0 ? bytes : 1);
  return *pointer != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault) {
    if (const cudaError_t error = check_side(to, bytes, to_device, "cudaMemcpy, target"); error != cudaSuccess)
      return error;
    if (const cudaError_t error = check_side(from, bytes, from_device, "cudaMemcpy, source"); error != cudaSuccess)
      return error;
  }
  return queue(stream, [to, from, bytes] {
    if (bytes > 0) std::memcpy(to, from, bytes);
  });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = check_side(pointer, bytes, true, "cudaMemset"); error != cudaSuccess) return error;
  return queue(stream, [pointer, value, bytes] { std::memset(pointer, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (device_bytes() == 0) return cudaErrorNoDevice;
  *stream = new CUstream_st;
  runtime().streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const cudaError_t error = cudaStreamSynchronize(stream);
  runtime().streams.erase(stream);
  delete stream;
  return error;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return run_until([stream] { return stream_of(stream).work.empty(); });
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return queue(
      stream, [] {}, [event, ticket = event->recorded] { return event->reached >= ticket; });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const cudaError_t error = cudaEventSynchronize(event);
  delete event;
  return error;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const uint64_t ticket = ++event->recorded;
  return queue(stream, [event, ticket] { event->reached = ticket; });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return run_until([event, ticket = event->recorded] { return event->reached >= ticket; });
}
cudaError_t cudaDeviceSynchronize() {
  return run_until([] {
    for (const CUstream_st* stream : runtime().streams) {
      if (!stream->work.empty()) return false;
    }
    return true;
  });
}
