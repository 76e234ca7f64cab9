// The tensor cores' instructions for 16-bit operands, and asynchronous copies into shared memory, as plain functions.
// For sm_80 and later: a kernel keeps what calls them out of the code of older devices.
//
// All lanes of a warp call load_matrices and multiply_add together. Two neighbouring elements of 16 bits make a
// register; lane l holds, with r = l / 4 and c = l % 4 * 2,
//   of A (16 x 16): (r, c), (r + 8, c), (r, c + 8), (r + 8, c + 8), each with the element to its right
//   of B (16 x 8):  (c, r), (c + 8, r), each with the element below
//   of the sums (16 x 8, float): (r, c), (r, c + 1), (r + 8, c), (r + 8, c + 1)
// so the sums of two products side by side, rounded and paired, are an A.
#pragma once

#include "cells/cuda/types.cuh"

#if !defined(__CUDACC__)
#include <mma_sync.h>  // the simulator's: the same functions
#else
namespace xlstm::cuda {

// An address in shared memory, as a number that the instructions take.
using SharedAddress = uint32_t;
__device__ __forceinline__ SharedAddress shared_address(const void* memory) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(memory));
}

// threadIdx.x and blockIdx.x, read anew: what is computed from them at the end of a kernel is computed there, and takes
// no registers from its beginning on.
__device__ __forceinline__ int reread_thread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}
__device__ __forceinline__ int reread_block() {
  int block;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
  return block;
}

// Four 8 x 8 matrices from shared memory. Lane l gives the address of row l % 8 of matrix l / 8: 16 bytes, aligned, at
// which the eight rows of a matrix should fall into different banks. It gets of every matrix the elements (l / 4, l % 4
// * 2) and the one to its right; kTransposed: of the transposed matrix.
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&parts)[4], SharedAddress row) {
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
                 : "r"(row));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
                 : "r"(row));
  }
}
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&parts)[4], const void* row) {
  load_matrices<kTransposed>(parts, shared_address(row));
}

// Writes a register to shared memory.
__device__ __forceinline__ void store_shared(SharedAddress to, uint32_t pair) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(pair) : "memory");
}

// Adds A B for kTiles matrices B side by side. T: __half or __nv_bfloat16, the elements of A and B.
template <typename T, int kTiles>
__device__ __forceinline__ void multiply_add(float (&sums)[kTiles][4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[kTiles][2]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    float (&sum)[4] = sums[tile];
    if constexpr (std::is_same_v<T, __half>) {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[tile][0]), "r"(b[tile][1]));
    } else {
      static_assert(std::is_same_v<T, __nv_bfloat16>);
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[tile][0]), "r"(b[tile][1]));
    }
  }
}

// Starts to copy 16 bytes from global to shared memory, or zeros where `present` is false; both are aligned to 16
// bytes. Until this thread has waited for the copy, what lies at `to` is anything; other threads need a barrier
// besides.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(present ? 16 : 0)
               : "memory");
}

// Makes one group of the copies that this thread has started since the last one.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups of this thread but the last kPending.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace xlstm::cuda
#endif
