// Test only: as much of the CUDA runtime as the kernels and their launchers use, for a build by a plain C++ compiler.
// This folder comes first on the include path of such a build, so the kernels' own sources compile unchanged.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "device_memory.h"
#include "simulator.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorCooperativeLaunchTooLarge = 720,
  cudaErrorInvalidClusterSize = 912
};
enum cudaDeviceAttr {
  cudaDevAttrMaxGridDimZ = 7,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrCooperativeLaunch = 95,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrClusterLaunch = 120
};
struct cudaFuncAttributes {
  size_t sharedSizeBytes;  // static
  int ptxVersion;
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributeNonPortableClusterSizeAllowed = 14
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;

inline cudaError_t cudaGetDevice(int* device) {
  *device = simulator::device.number;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const simulator::Device& device = simulator::device;
  switch (attribute) {
    case cudaDevAttrMaxGridDimZ:
      *value = device.grid_height;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = device.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(device.shared_limit) + 1024;
      return cudaSuccess;
    case cudaDevAttrCooperativeLaunch:
      *value = device.cooperative;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(device.shared_limit);
      return cudaSuccess;
    case cudaDevAttrClusterLaunch:
      *value = device.clusters;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** address, size_t bytes) {
  *address = simulator::allocate(bytes);
  return *address ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaFree(void* address) {
  simulator::release(address);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMallocAsync(void** address, size_t bytes, cudaStream_t) {
  const cudaError_t status = cudaMalloc(address, bytes);
  if (status == cudaSuccess) std::memset(*address, 0xff, bytes);
  return status;
}
inline cudaError_t cudaFreeAsync(void* address, cudaStream_t) { return cudaFree(address); }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t status) { return status == cudaSuccess ? "no error" : "invalid"; }
