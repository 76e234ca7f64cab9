// A copy as a kernel of ours makes one: what the memory gives to a kernel, which cudaMemcpy is not.
#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int kThreads = 256, kUnroll = 4;

__global__ void __launch_bounds__(kThreads) copy_kernel(float4* to, const float4* from, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (; at + (kUnroll - 1) * stride < count; at += kUnroll * stride) {
    float4 values[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) values[u] = from[at + u * stride];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) to[at + u * stride] = values[u];
  }
  for (; at < count; at += stride) to[at] = from[at];
}

}  // namespace

// `bytes`: a multiple of 16, as both addresses are.
extern "C" __attribute__((visibility("default"))) int xlstm_launch_copy(void* to, const void* from, int64_t bytes,
                                                                        int blocks, void* stream) {
  copy_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(static_cast<float4*>(to),
                                                                          static_cast<const float4*>(from), bytes / 16);
  return cudaGetLastError();
}
