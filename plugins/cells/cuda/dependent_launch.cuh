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
  int architecture = 0, driver = 0;
  cudaError_t status = query_architecture<kKernel>(limits.device, architecture);
  const auto ask_driver = [](int& version) { return cudaDriverGetVersion(&version); };
  if (status == cudaSuccess) status = ask_once(limits.device, driver, ask_driver);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = make_config(grid, threads, 0, stream);
  config.attrs = &attribute;
  config.numAttrs = architecture >= 90 && driver >= 12030 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kKernel, arguments...);
}

}  // namespace xlstm::cuda
