// Programmatic dependent launch (sm_90 and later): the blocks of a kernel come to the GPU while the kernel before it in
// the stream ends, instead of after it.
//
// Until wait_for_predecessors() a kernel may read nothing that the stream has written, however long ago, and write
// nothing. The launch before may have let this one start before it has waited itself, and so may the one before that:
// nothing says then that any of them is through. In a chain of two of our steps the very memory C may still be on its
// way. What may come first is a hint to the L2 cache, whose lines are what the memory is, whoever writes it later.
// Every thread waits before it ends, so whatever waits for our kernel has waited for those before it.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "cells/cuda/device_limits.h"

#if !defined(__CUDACC__)
#include "dependent_launch.h"  // the simulator's
#endif

namespace xlstm::cuda {

constexpr int kSectorBytes = 32;  // what one hint fetches at least

#if defined(__CUDACC__)

__device__ __forceinline__ void wait_for_predecessors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel's blocks may come as soon as every block of this one has said so.
__device__ __forceinline__ void let_successor_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ void hint_to_l2([[maybe_unused]] const void* address) {
#if __CUDA_ARCH__ >= 900
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(address)));
#endif
}

#endif

// Launches a kernel that waits for its predecessors: early where its machine code does. Code that was compiled for
// older GPUs, which a newer one runs through PTX, does not; and drivers before CUDA 12.3 cannot capture such a launch.
template <auto kKernel, typename... Arguments>
cudaError_t launch_early(const DeviceLimits& limits, dim3 grid, int threads, cudaStream_t stream,
                         const Arguments&... arguments) {
  enum : int { kUnknown, kNo, kYes };
  static std::atomic<int> known[kRememberedDevices];
  int early = limits.device < kRememberedDevices ? known[limits.device].load(std::memory_order_relaxed) : kNo;
  if (early == kUnknown) {
    cudaFuncAttributes attributes{};
    int driver = 0;
    cudaError_t status = cudaFuncGetAttributes(&attributes, kKernel);
    if (status == cudaSuccess) status = cudaDriverGetVersion(&driver);
    if (status != cudaSuccess) return status;
    early = attributes.ptxVersion >= 90 && driver >= 12030 ? kYes : kNo;
    known[limits.device].store(early, std::memory_order_relaxed);
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early == kYes ? 1 : 0;
  return cudaLaunchKernelEx(&config, kKernel, arguments...);
}

}  // namespace xlstm::cuda
