// The instructions of kernels/cuda/nvcc/luq_cuda/ptx.h, on the CPU: fragments as the PTX manual lays them out.
#pragma once

#include <cuda_runtime.h>

#include "luq/core/bfloat16.h"

// Before a loop whose arrays must lie in registers.
#define LUQ_UNROLL
// Before one whose body is long and rarely runs.
#define LUQ_UNROLL_NOT

namespace luq::emulation {

// The block's dynamic shared memory, all of its bytes poisoned when the block begins.
void* shared_memory(size_t bytes, size_t alignment);
void copy_async(void* shared, const void* global, size_t bytes, size_t filled);
void commit_copies();
void wait_for_copies(int groups_left);
// Warp-wide: lane's operands in, its part of the result out.
void mma_int8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const int (&c)[4], bool unsigned_b);
void load_matrix(unsigned* r, int matrices, bool transposed, const void* shared_row);
// Throws unless the access lies in device memory, aligned.
void check_global(const void* pointer, size_t bytes, const char* what);

}  // namespace luq::emulation

namespace luq::device {

// The kernel's shared memory, of the size that the launch gave: one struct of arrays.
template <typename T>
T& shared_memory() {
  return *static_cast<T*>(emulation::shared_memory(sizeof(T), alignof(T)));
}

// D (16 x 8, int32) = A (16 x 32, int8, rows) B (32 x 8, int8, columns) + C. mma.sync.m16n8k32.
inline void mma_s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const int (&c)[4]) {
  emulation::mma_int8(d, a, b, c, false);
}
// The same with B of unsigned int8.
inline void mma_s8_u8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const int (&c)[4]) {
  emulation::mma_int8(d, a, b, c, true);
}

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8. ldmatrix.x4.
inline void load_matrix_x4(unsigned (&r)[4], const void* shared_row) {
  emulation::load_matrix(r, 4, false, shared_row);
}
// The same, transposed: lane l gets elements 2 (l % 4) and 2 (l % 4) + 1 of column l / 4. ldmatrix.x4.trans.
inline void load_matrix_x4_transposed(unsigned (&r)[4], const void* shared_row) {
  emulation::load_matrix(r, 4, true, shared_row);
}

// 16 bytes to shared memory, of which the first `filled` come from global memory and the rest are 0. They arrive at the
// wait, not before. cp.async.cg.
inline void copy_async16(void* shared, const void* global, int filled = 16) {
  emulation::copy_async(shared, global, 16, static_cast<size_t>(filled));
}
inline void commit_copies() { emulation::commit_copies(); }
// Until at most Left of the committed groups are on their way.
template <int Left>
void wait_for_copies() {
  emulation::wait_for_copies(Left);
}

// Byte i of the result is the byte of y:x that bits 4 i .. 4 i + 2 of the selector number, or, with bit 4 i + 3, its
// sign in all bits; __byte_perm knows no signs. prmt.b32.
inline unsigned permute_bytes(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> (4 * i) & 15u;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (nibble & 7u))) & 0xffu;
    if ((nibble & 8u) != 0) byte = (byte & 0x80u) != 0 ? 0xffu : 0u;
    result |= byte << (8 * i);
  }
  return result;
}

// Two of them rounded to bfloat16 as to_bfloat16 does, the first in the lower half; of a NaN 0x7fff, as a device gives
// it. cvt.rn.bf16x2.f32.
inline unsigned two_bfloat16(float first, float second) {
  const auto bits = [](float x) { return x == x ? unsigned{to_bfloat16(x).bits} : 0x7fffu; };
  return bits(first) | bits(second) << 16;
}

// 16 bytes that no kernel writes meanwhile. ld.global.nc.
inline uint4 load16(const void* global) {
  emulation::check_global(global, 16, "load16");
  uint4 value;
  std::memcpy(&value, global, 16);
  return value;
}

}  // namespace luq::device
