// Some neighbouring values of a tensor in a thread's registers: in memory a type's 2 or 4 bytes each, 16 or 8 bytes a
// load where they are aligned, and float32 where they are computed with.
#pragma once

#include <luq_cuda/ptx.h>

#include "kernels/kernels.h"
#include "kernels/numerics.h"

namespace luq::kernels::cuda {

constexpr int kThreads = 256;
constexpr int kUnit = 8;  // elements of a byte of a mask and of a block of random bits

__device__ inline float load1(const float* x) { return *x; }
__device__ inline float load1(const BFloat16* x) { return to_float(*x); }
__device__ inline void store1(float* y, float value) { *y = value; }
__device__ inline void store1(BFloat16* y, float value) { *y = to_bfloat16(value); }

// The bits that a store puts into memory.
__device__ inline uint32_t stored_bits(float value, const float*) { return float_bits(value); }
__device__ inline uint32_t stored_bits(float value, const BFloat16*) { return to_bfloat16(value).bits; }

// N values of T as they are in memory: 1, or a multiple of 4 at a multiple of 16 bytes (of 8 where they are 8).
template <typename T, int N>
struct Packed {
  static constexpr int kWords = N == 1 ? 1 : N * static_cast<int>(sizeof(T)) / 4;
  uint32_t word[kWords];

  __device__ static Packed load(const T* x) {
    Packed p;
    if constexpr (N == 1) {
      p.word[0] = float_bits(load1(x));
    } else if constexpr (kWords == 2) {
      const uint2 bits = *reinterpret_cast<const uint2*>(x);
      p.word[0] = bits.x;
      p.word[1] = bits.y;
    } else {
      LUQ_UNROLL
      for (int i = 0; i < kWords; i += 4) {
        const uint4 bits = reinterpret_cast<const uint4*>(x)[i / 4];
        p.word[i] = bits.x;
        p.word[i + 1] = bits.y;
        p.word[i + 2] = bits.z;
        p.word[i + 3] = bits.w;
      }
    }
    return p;
  }
  __device__ void store(T* y) const {
    if constexpr (N == 1) {
      store1(y, bits_float(word[0]));
    } else if constexpr (kWords == 2) {
      *reinterpret_cast<uint2*>(y) = make_uint2(word[0], word[1]);
    } else {
      LUQ_UNROLL
      for (int i = 0; i < kWords; i += 4) {
        reinterpret_cast<uint4*>(y)[i / 4] = make_uint4(word[i], word[i + 1], word[i + 2], word[i + 3]);
      }
    }
  }
  __device__ float operator[](int i) const {
    if constexpr (N == 1 || sizeof(T) == 4) return bits_float(word[i]);
    return bits_float(i % 2 == 0 ? word[i / 2] << 16 : word[i / 2] & 0xffff0000u);
  }
  // The bits of value i in memory; N is not 1.
  __device__ uint32_t bits(int i) const {
    static_assert(N > 1);
    if constexpr (sizeof(T) == 4) return word[i];
    return word[i / 2] >> (16 * (i % 2)) & 0xffffu;
  }
  __device__ static Packed of(const float (&value)[N]) {
    Packed p;
    if constexpr (N == 1) {
      p.word[0] = float_bits(value[0]);
    } else if constexpr (sizeof(T) == 4) {
      LUQ_UNROLL
      for (int i = 0; i < N; ++i) p.word[i] = float_bits(value[i]);
    } else {
      LUQ_UNROLL
      for (int i = 0; i < N; i += 2) {
        p.word[i / 2] = luq::device::two_bfloat16(value[i], value[i + 1]);
      }
    }
    return p;
  }
};

// The first `here` of N values, as one where `whole`; the others are 0.
template <typename T, int N>
__device__ void load_some(const T* x, int here, bool whole, float (&value)[N]) {
  if (whole) {
    const Packed<T, N> packed = Packed<T, N>::load(x);
    for (int i = 0; i < N; ++i) value[i] = packed[i];
  } else {
    for (int i = 0; i < N; ++i) value[i] = i < here ? load1(x + i) : 0.0f;
  }
}
template <typename T, int N>
__device__ void store_some(T* y, int here, bool whole, const float (&value)[N]) {
  if (whole) {
    Packed<T, N>::of(value).store(y);
  } else {
    for (int i = 0; i < N; ++i) {
      if (i < here) store1(y + i, value[i]);
    }
  }
}

// Null is aligned.
template <typename... Pointers>
bool are_aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// Calls op.at(first, here, whole) for every N elements.
template <int N, bool kAligned, typename Op>
__global__ void __launch_bounds__(kThreads) each_unit(Op op, int64_t count) {
  const int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * N;
  if (first >= count) return;
  const int here = count - first < N ? static_cast<int>(count - first) : N;
  op.at(first, here, kAligned && here == N);
}

}  // namespace luq::kernels::cuda
