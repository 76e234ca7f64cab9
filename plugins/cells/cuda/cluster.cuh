// Thread-block clusters (sm_90 and later): blocks that run at the same time and reach each other's shared memory.
// A block must not end before the others have done with its memory: a cluster barrier comes last.
#pragma once

#include <cuda_runtime.h>

#if !defined(__CUDACC__)
#include "cluster.h"  // the simulator's
#else

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

}  // namespace xlstm::cuda

#endif
