// The statistics of numerics.h on the device, for their own kernel and for passes that take them of what they write:
// sums of chunks of 4096 elements, and the tree over the chunks.
#pragma once

#include "kernels/cuda/runtime.h"
#include "kernels/cuda/vectors.h"
#include "kernels/numerics.h"

namespace luq::kernels::cuda {

struct ChunkSums {
  float abs, sq;
  int nonzero;
  uint32_t abs_bits_max;
};

// N neighbouring lanes of a chunk's 64, in one of 64 / N threads beside each other.
template <int N>
struct LaneSums {
  static constexpr int kThreads = kStatsLanes / N;
  float abs[N] = {}, sq[N] = {};
  int nonzero = 0;
  uint32_t abs_bits_max = 0;

  __device__ void add(int lane, float value) {
    const uint32_t bits = float_bits(value) & 0x7fffffffu;
    abs[lane] = __fadd_rn(abs[lane], bits_float(bits));
    sq[lane] = __fadd_rn(sq[lane], __fmul_rn(value, value));
    nonzero += bits != 0;
    abs_bits_max = bits > abs_bits_max ? bits : abs_bits_max;
  }
  // The chunk's, in the first of the threads. All threads of the warp call it.
  __device__ ChunkSums fold() {
    for (int apart = kThreads / 2; apart > 0; apart /= 2) {
      for (int k = 0; k < N; ++k) {
        abs[k] = __fadd_rn(abs[k], __shfl_down_sync(0xffffffffu, abs[k], apart, kThreads));
        sq[k] = __fadd_rn(sq[k], __shfl_down_sync(0xffffffffu, sq[k], apart, kThreads));
      }
      nonzero += __shfl_down_sync(0xffffffffu, nonzero, apart, kThreads);
      const uint32_t other = __shfl_down_sync(0xffffffffu, abs_bits_max, apart, kThreads);
      abs_bits_max = other > abs_bits_max ? other : abs_bits_max;
    }
    for (int half = N / 2; half > 0; half /= 2) {
      for (int k = 0; k < half; ++k) {
        abs[k] = __fadd_rn(abs[k], abs[k + half]);
        sq[k] = __fadd_rn(sq[k], sq[k + half]);
      }
    }
    return {abs[0], sq[0], nonzero, abs_bits_max};
  }
};

// Room in the scratch memory for the sums of so many elements' chunks; and their statistics, once a kernel has written
// them there: for 268 million elements two more launches, a copy and a wait.
ChunkSums* chunk_sums_for(int64_t count);
Stats add_up_chunks(int64_t count);

}  // namespace luq::kernels::cuda
