// Thread-block clusters (sm_90 and later): blocks that run at the same time and reach each other's shared memory.
// A block must not end before the others have done with its memory: a cluster barrier comes last.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if !defined(__CUDACC__)
#include "cluster.h"  // the simulator's
#else
#include "cells/cuda/tensor_core.cuh"  // shared_address

namespace xlstm::cuda {

// The running block's number within its cluster, and how many there are.
__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ unsigned cluster_size() {
  unsigned size;
  asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(size));
  return size;
}

// The barrier of all threads of a cluster, in two halves: what a thread wrote before it arrived, in its own block's
// memory or another's, is what every thread reads after its wait.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

__device__ __forceinline__ void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// The place in another block's dynamic shared memory that `own` is in the running block's.
template <typename T>
__device__ __forceinline__ T* in_block(T* own, unsigned rank) {
  T* other;
  asm("mapa.u64 %0, %1, %2;" : "=l"(other) : "l"(own), "r"(rank));
  return other;
}

// A counter of arrivals in shared memory (mbarrier) for stores that other blocks of the cluster make into this one. It
// goes through phases 0, 1, 0, ...; a phase ends with `count` arrivals and the last of the bytes that they expect.
// After it is made it is known to the other blocks from the next cluster barrier on.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, unsigned count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Until the phase of this parity has ended, and what its bytes brought can be read.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, unsigned phase) {
  asm volatile(
      "{\n"
      ".reg .pred ended;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 ended, [%0], %1;\n"
      "@!ended bra again;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(phase)
      : "memory");
}

// Writes `value` to the place in the block of this rank that `to` is in the running one, and counts its bytes there at
// the place of `barrier`. Nobody waits for it here.
template <typename T>
__device__ __forceinline__ void store_async(T* to, T value, uint64_t* barrier, unsigned rank) {
  static_assert(sizeof(T) == 8);
  asm volatile(
      "{\n"
      ".reg .b32 remote, counter;\n"
      "mapa.shared::cluster.u32 remote, %0, %3;\n"
      "mapa.shared::cluster.u32 counter, %2, %3;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b64 [remote], %1, [counter];\n"
      "}" ::"r"(shared_address(to)),
      "l"(value), "r"(shared_address(barrier)), "r"(rank)
      : "memory");
}

}  // namespace xlstm::cuda

#endif
