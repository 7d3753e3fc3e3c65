// Instructions that CUDA C++ has no words for, and shared memory by type. The same functions for the CPU, with the
// fragments of the PTX manual, are in tests/cuda_emulation/include; the include path decides.
#pragma once

#include <cuda_runtime.h>

// Before a loop whose arrays must lie in registers.
#define LUQ_UNROLL _Pragma("unroll")
// Before one whose body is long and rarely runs.
#define LUQ_UNROLL_NOT _Pragma("unroll 1")

namespace luq::device {

// The kernel's shared memory, of the size that the launch gave: one struct of arrays. The name of an unused register
// in the PTX tells tools/cuda_table.py the size.
template <typename T>
__device__ __forceinline__ T& shared_memory() {
  extern __shared__ __align__(128) unsigned char luq_shared[];
  asm volatile("{ .reg .b32 luq_shared_%0; }" ::"n"(sizeof(T)));
  return *reinterpret_cast<T*>(luq_shared);
}

// D (16 x 8, int32) = A (16 x 32, int8, rows) B (32 x 8, int8, columns) + C. mma.sync.m16n8k32.
__device__ __forceinline__ void mma_s8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const int (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

// The same with B of unsigned int8.
__device__ __forceinline__ void mma_s8_u8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                          const int (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8. ldmatrix.x4.
__device__ __forceinline__ void load_matrix_x4(unsigned (&r)[4], const void* shared_row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
// The same, transposed: lane l gets elements 2 (l % 4) and 2 (l % 4) + 1 of column l / 4. ldmatrix.x4.trans.
__device__ __forceinline__ void load_matrix_x4_transposed(unsigned (&r)[4], const void* shared_row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// 16 bytes to shared memory, of which the first `filled` come from global memory and the rest are 0. They arrive at the
// wait, not before. cp.async.cg.
__device__ __forceinline__ void copy_async16(void* shared, const void* global, int filled = 16) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(filled) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most Left of the committed groups are on their way.
template <int Left>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

// Byte i of the result is the byte of y:x that bits 4 i .. 4 i + 2 of the selector number, or, with bit 4 i + 3, its
// sign in all bits; __byte_perm knows no signs. prmt.b32.
__device__ __forceinline__ unsigned permute_bytes(unsigned x, unsigned y, unsigned selector) {
  unsigned result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(x), "r"(y), "r"(selector));
  return result;
}

// Two of them rounded to bfloat16 as to_bfloat16 does, the first in the lower half; of a NaN 0x7fff. cvt.rn.bf16x2.f32.
__device__ __forceinline__ unsigned two_bfloat16(float first, float second) {
  unsigned result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
  return result;
}

// 16 bytes that no kernel writes meanwhile. ld.global.nc.
__device__ __forceinline__ uint4 load16(const void* global) {
  uint4 value;
  asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(global));
  return value;
}

}  // namespace luq::device
