// Stands in for the CUDA runtime when a .cu file is compiled by the host compiler: the part of it that this project
// uses, with the same names. What a kernel does then happens on the CPU, one fiber for each CUDA thread; see
// tests/cuda_emulation/emulation.h for what is checked on the way.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <typeinfo>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- The host's side ------------------------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorIllegalAddress = 700,
  cudaErrorNotReady = 600,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount;
};
struct cudaLaunchAttribute {};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2;

const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);

cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream);
// There is nothing that a pool could keep: no address is used again.
using cudaMemPool_t = struct CUmemPoolHandle_st*;
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold };
inline cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t*, int) { return cudaSuccess; }
inline cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMallocHost(void** pointer, size_t bytes);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream = nullptr);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*)(Parameters...), cudaFuncAttribute, int) {
  return cudaSuccess;
}

namespace luq::emulation {

// Whether one of the words there is an address of the host's memory.
bool holds_host_pointer(const void* argument, size_t bytes);
// Queues a launch: body() is what one thread does. host_argument: the type of one that points to the host's memory.
cudaError_t launch(const cudaLaunchConfig_t& config, std::function<void()> body, const char* host_argument);

}  // namespace luq::emulation

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  std::tuple<Parameters...> copies(static_cast<Parameters>(arguments)...);
  const char* host_argument = nullptr;
  const auto look_at = [&host_argument](auto& argument) {
    __builtin_clear_padding(&argument);  // where an old pointer may lie
    if (luq::emulation::holds_host_pointer(&argument, sizeof argument)) host_argument = typeid(argument).name();
  };
  std::apply([&look_at](auto&... each) { (look_at(each), ...); }, copies);
  return luq::emulation::launch(
      *config, [kernel, copies] { std::apply(kernel, copies); }, host_argument);
}

// ---- The device's side ----------------------------------------------------------------------------------------------

namespace luq::emulation {

struct ThreadPosition {
  uint3 thread{}, block{};
  dim3 block_extent, grid_extent;
};
const ThreadPosition& position();  // of the running thread; an error outside a kernel

}  // namespace luq::emulation

namespace luq::emulation {

// threadIdx.x and the like: an unsigned number that belongs to the running thread.
template <auto Member, unsigned dim3::*DimAxis, unsigned uint3::*IndexAxis>
struct Component {
  operator unsigned() const {
    if constexpr (requires { position().*Member.*IndexAxis; }) {
      return position().*Member.*IndexAxis;
    } else {
      return position().*Member.*DimAxis;
    }
  }
};
template <auto Member>
struct Components {
  Component<Member, &dim3::x, &uint3::x> x;
  Component<Member, &dim3::y, &uint3::y> y;
  Component<Member, &dim3::z, &uint3::z> z;
};

}  // namespace luq::emulation

inline constexpr luq::emulation::Components<&luq::emulation::ThreadPosition::thread> threadIdx{};
inline constexpr luq::emulation::Components<&luq::emulation::ThreadPosition::block> blockIdx{};
inline constexpr luq::emulation::Components<&luq::emulation::ThreadPosition::block_extent> blockDim{};
inline constexpr luq::emulation::Components<&luq::emulation::ThreadPosition::grid_extent> gridDim{};

void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);
unsigned __ballot_sync(unsigned mask, int predicate);
int __any_sync(unsigned mask, int predicate);
int __all_sync(unsigned mask, int predicate);
unsigned __activemask();

namespace luq::emulation {

enum class Shuffle { index, up, down, exclusive_or };
uint64_t shuffle(unsigned mask, uint64_t bits, Shuffle kind, unsigned operand, int width);

template <typename T>
T shuffle_value(unsigned mask, T value, Shuffle kind, unsigned operand, int width) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = shuffle(mask, bits, kind, operand, width);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace luq::emulation

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return luq::emulation::shuffle_value(mask, value, luq::emulation::Shuffle::index, static_cast<unsigned>(lane), width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return luq::emulation::shuffle_value(mask, value, luq::emulation::Shuffle::up, delta, width);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return luq::emulation::shuffle_value(mask, value, luq::emulation::Shuffle::down, delta, width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return luq::emulation::shuffle_value(mask, value, luq::emulation::Shuffle::exclusive_or, static_cast<unsigned>(lanes),
                                       width);
}

// One thread runs at a time, so these are what they say.
template <typename T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}
template <typename T>
T atomicMax(T* address, T value) {
  const T old = *address;
  if (value > old) *address = value;
  return old;
}
inline void __threadfence() {}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
unsigned __byte_perm(unsigned x, unsigned y, unsigned selector);
int __dp4a(int a, int b, int c);
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __int_as_float(int x) {
  float y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
inline int __float_as_int(float x) {
  int y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
