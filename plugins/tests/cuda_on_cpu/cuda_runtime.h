// Test only: the CUDA C++ language on a CPU. See simulator.h for how threads, barriers and shuffles work.
#pragma once

#include "cuda_runtime_api.h"
#include "simulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// All __shared__ variables lie in one linker section, which the simulator fills with NaN before every block.
#define __shared__ static __attribute__((section("cuda_shared")))
#define XLSTM_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::simulator::dynamic_shared())
#define __syncthreads() ::simulator::barrier(__FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, offset) ::simulator::shuffle_xor(mask, value, offset, __FILE__, __LINE__)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
#define threadIdx (::simulator::thread_index)
#define blockIdx (::simulator::block_index)

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <typename... Expected, typename... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...), Actual... arguments) {
  simulator::launch(config->gridDim.x, config->blockDim.x, config->dynamicSmemBytes,
                    [&] { kernel(static_cast<Expected>(arguments)...); });
  return cudaSuccess;
}
