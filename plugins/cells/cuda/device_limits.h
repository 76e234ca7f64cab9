// What the launchers ask of the device that they launch on, and the configuration of a launch.
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

// `answer`: what `ask` says of a device, which it is asked once. Never 0, and never another.
template <typename Ask>
cudaError_t ask_once(int device, int& answer, Ask&& ask) {
  constexpr int kRemembered = 64;  // devices; others are asked at every launch
  static std::atomic<int> answers[kRemembered];
  std::atomic<int>* const known = device < kRemembered ? &answers[device] : nullptr;
  answer = known != nullptr ? known->load(std::memory_order_relaxed) : 0;
  if (answer != 0) return cudaSuccess;
  const cudaError_t status = ask(answer);
  if (status == cudaSuccess && known != nullptr) known->store(answer, std::memory_order_relaxed);
  return status;
}

// Lets every launch of `kKernel` on this device have as much dynamic shared memory as a block can have: what the device
// gives on request less the kernel's static part.
//
// The permission belongs to the function, not to a launch. To allow each launch its own bytes would take them away from
// a launch of another thread that needs more and has just asked. So the most there is is allowed, once, and stays.
template <auto kKernel>
cudaError_t allow_shared_memory(const DeviceLimits& limits) {
  int allowed = 0;
  return ask_once(limits.device, allowed, [&](int& bytes) {
    cudaFuncAttributes attributes{};
    const cudaError_t status = cudaFuncGetAttributes(&attributes, kKernel);
    if (status != cudaSuccess) return status;
    bytes = limits.shared_bytes - static_cast<int>(attributes.sharedSizeBytes);
    return cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  });
}

// The architecture that the code of `kKernel` on this device was compiled for, 10 * major + minor. It may be older than
// the device, which compiles a kernel from PTX where the library has none of its own.
template <auto kKernel>
cudaError_t query_architecture(int device, int& architecture) {
  return ask_once(device, architecture, [](int& version) {
    cudaFuncAttributes attributes{};
    const cudaError_t status = cudaFuncGetAttributes(&attributes, kKernel);
    version = attributes.ptxVersion;
    return status;
  });
}

inline cudaLaunchConfig_t make_config(dim3 grid, int threads, size_t shared_bytes, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return config;
}

}  // namespace xlstm::cuda
