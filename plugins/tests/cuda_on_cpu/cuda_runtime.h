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
#define __align__(bytes) alignas(bytes)
#define XLSTM_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::simulator::dynamic_shared())
#define __syncthreads() ::simulator::barrier(__FILE__, __LINE__)
#define __nanosleep(nanoseconds) \
  if (::simulator::spin(__FILE__, __LINE__)) break  // the body of a loop that spins
#define __shfl_xor_sync(mask, value, offset) ::simulator::shuffle_xor(mask, value, offset, __FILE__, __LINE__)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
#define threadIdx (::simulator::thread_index)
#define blockIdx (::simulator::block_index)

enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative = 2 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

template <typename... Expected, typename... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...), Actual... arguments) {
  const bool cooperative = config->numAttrs == 1 && config->attrs[0].val.cooperative;
  if (cooperative && config->gridDim.x > static_cast<unsigned>(simulator::device.resident_blocks)) {
    return cudaErrorCooperativeLaunchTooLarge;
  }
  simulator::launch({config->gridDim.x, config->blockDim.x, config->dynamicSmemBytes, cooperative,
                     reinterpret_cast<const void*>(kernel)},
                    [&] { kernel(static_cast<Expected>(arguments)...); });
  return cudaSuccess;
}

template <typename... Expected>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)(Expected...)) {
  *attributes = {0};  // nobody knows which of the static variables are whose: kernels that ask have none
  return cudaSuccess;
}

template <typename... Expected>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Expected...), cudaFuncAttribute, int bytes) {
  simulator::allow_dynamic_shared(reinterpret_cast<const void*>(kernel), static_cast<size_t>(bytes));
  return cudaSuccess;
}

template <typename... Expected>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(Expected...), int,
                                                          size_t shared_bytes) {
  *blocks = shared_bytes <= simulator::device.shared_limit;
  return cudaSuccess;
}

inline unsigned atomicAdd(unsigned* address, unsigned value) {
  const unsigned old = *address;
  *address += value;
  return old;
}
inline void __threadfence() {}
inline float __ldcg(const float* address) { return *address; }
