// Test only: the CUDA C++ language on a CPU. See simulator.h for how threads, barriers and shuffles work.
#pragma once

#include "cuda_runtime_api.h"
#include "simulator.h"

// The architecture whose code paths are compiled.
#if !defined(__CUDA_ARCH__)
#define __CUDA_ARCH__ 900
#endif

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

enum cudaLaunchAttributeID {
  cudaLaunchAttributeCooperative = 2,
  cudaLaunchAttributeClusterDimension = 4,
  cudaLaunchAttributeProgrammaticStreamSerialization = 6
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  union {
    int cooperative;
    int programmaticStreamSerializationAllowed;
    struct {
      unsigned x, y, z;
    } clusterDim;
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
  const dim3& grid = config->gridDim;
  simulator::Launch launch{
      {grid.x, grid.y, grid.z}, config->blockDim.x, config->dynamicSmemBytes, reinterpret_cast<const void*>(kernel)};
  for (unsigned index = 0; index < config->numAttrs; ++index) {
    const cudaLaunchAttribute& attribute = config->attrs[index];
    if (attribute.id == cudaLaunchAttributeCooperative) launch.cooperative = attribute.val.cooperative != 0;
    if (attribute.id == cudaLaunchAttributeClusterDimension) launch.cluster = attribute.val.clusterDim.x;
    if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization) {
      launch.early = attribute.val.programmaticStreamSerializationAllowed != 0;
    }
  }
  const unsigned blocks = grid.x * grid.y * grid.z;
  if (launch.cooperative && blocks > static_cast<unsigned>(simulator::device.resident_blocks)) {
    return cudaErrorCooperativeLaunchTooLarge;
  }
  if (launch.cluster > 1 && (!simulator::device.clusters || simulator::device.resident_clusters == 0)) {
    return cudaErrorInvalidClusterSize;
  }
  simulator::launch(launch, [&] { kernel(static_cast<Expected>(arguments)...); });
  return cudaSuccess;
}

template <typename... Expected>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)(Expected...)) {
  *attributes = {
      0, __CUDA_ARCH__ / 10};  // nobody knows which of the static variables are whose: kernels that ask have none
  return cudaSuccess;
}

template <typename... Expected>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Expected...), cudaFuncAttribute attribute, int value) {
  const void* const function = reinterpret_cast<const void*>(kernel);
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    simulator::allow_large_clusters(function);
  } else {
    simulator::allow_dynamic_shared(function, static_cast<size_t>(value));
  }
  return cudaSuccess;
}

template <typename... Expected>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(Expected...), int,
                                                          size_t shared_bytes) {
  *blocks = shared_bytes <= simulator::device.shared_limit;
  return cudaSuccess;
}

template <typename... Expected>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, void (*)(Expected...), const cudaLaunchConfig_t* config) {
  const simulator::Device& device = simulator::device;
  const bool fits = device.clusters && config->dynamicSmemBytes <= device.shared_limit;
  *clusters = fits ? device.resident_clusters : 0;
  return cudaSuccess;
}

inline unsigned atomicAdd(unsigned* address, unsigned value) {
  const unsigned old = *address;
  *address += value;
  return old;
}
inline void __threadfence() {}
inline int min(int a, int b) { return a < b ? a : b; }
inline float __ldcg(const float* address) { return *address; }
