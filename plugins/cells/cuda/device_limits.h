// What the launchers ask of the device that they launch on.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

namespace xlstm::cuda {

struct DeviceLimits {
  int device = 0;
  int multiprocessors = 0;
  int shared_bytes = 0;                 // that a block can have on request
  int multiprocessor_shared_bytes = 0;  // that the blocks of a multiprocessor can have together
  int cooperative = 0;                  // whether all blocks of a launch can be resident together
  int grid_height = 0;                  // blocks of a grid along y, and along z
  int clusters = 0;                     // whether blocks can be launched in clusters
};

inline cudaError_t query_limits(DeviceLimits& limits) {
  cudaError_t status = cudaGetDevice(&limits.device);
  const auto query = [&](int& value, cudaDeviceAttr attribute) {
    if (status == cudaSuccess) status = cudaDeviceGetAttribute(&value, attribute, limits.device);
  };
  query(limits.multiprocessors, cudaDevAttrMultiProcessorCount);
  query(limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  query(limits.multiprocessor_shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  query(limits.cooperative, cudaDevAttrCooperativeLaunch);
  query(limits.grid_height, cudaDevAttrMaxGridDimZ);  // y has no less
  query(limits.clusters, cudaDevAttrClusterLaunch);
  return status;
}

constexpr int kRememberedDevices = 64;  // others are asked at every launch

// Lets every launch of `kKernel` on this device have as much dynamic shared memory as a block can have: what the device
// gives on request less the kernel's static part.
//
// The permission belongs to the function, not to a launch. To allow each launch its own bytes would take them away from
// a launch of another thread that needs more and has just asked. So the most there is is allowed, once, and stays.
template <auto kKernel>
cudaError_t allow_shared_memory(const DeviceLimits& limits) {
  static std::atomic<bool> allowed[kRememberedDevices];
  std::atomic<bool>* const known = limits.device < kRememberedDevices ? &allowed[limits.device] : nullptr;
  if (known != nullptr && known->load(std::memory_order_relaxed)) return cudaSuccess;
  cudaFuncAttributes attributes{};
  cudaError_t status = cudaFuncGetAttributes(&attributes, kKernel);
  if (status != cudaSuccess) return status;
  const int bytes = limits.shared_bytes - static_cast<int>(attributes.sharedSizeBytes);
  status = cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status == cudaSuccess && known != nullptr) known->store(true, std::memory_order_relaxed);
  return status;
}

// The architecture that the code of `kKernel` on this device was compiled for, 10 * major + minor. It may be older than
// the device, which compiles a kernel from PTX where the library has none of its own.
template <auto kKernel>
cudaError_t query_architecture(const DeviceLimits& limits, int& architecture) {
  static std::atomic<int> answers[kRememberedDevices];  // 0: not asked yet
  std::atomic<int>* const known = limits.device < kRememberedDevices ? &answers[limits.device] : nullptr;
  architecture = known != nullptr ? known->load(std::memory_order_relaxed) : 0;
  if (architecture != 0) return cudaSuccess;
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, kKernel);
  if (status != cudaSuccess) return status;
  architecture = attributes.ptxVersion;
  if (known != nullptr) known->store(architecture, std::memory_order_relaxed);
  return cudaSuccess;
}

}  // namespace xlstm::cuda
