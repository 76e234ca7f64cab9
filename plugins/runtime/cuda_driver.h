// The few functions of the CUDA driver that the runtime needs, found at run time: an application starts without a GPU,
// and the library compiles without CUDA's headers. The driver's C interface is stable, so it is declared here; where
// cuda.h is at hand (tensorrt_backend.cc), the compiler compares.
#pragma once

#include <cstddef>
#include <string>

struct CUctx_st;
struct CUstream_st;
struct CUgraph_st;
struct CUgraphExec_st;

namespace xlstm::internal {

// name in libcuda.so.1, result (always CUresult), parameters
#define XLSTM_CUDA_DRIVER(F)                                                                 \
  F(cuInit, unsigned)                                                                        \
  F(cuGetErrorString, int, const char**)                                                     \
  F(cuDeviceGetCount, int*)                                                                  \
  F(cuDeviceGet, int*, int)                                                                  \
  F(cuDevicePrimaryCtxRetain, CUctx_st**, int)                                               \
  F(cuCtxSetCurrent, CUctx_st*)                                                              \
  F(cuMemAlloc_v2, unsigned long long*, std::size_t)                                         \
  F(cuMemFree_v2, unsigned long long)                                                        \
  F(cuMemHostAlloc, void**, std::size_t, unsigned)                                           \
  F(cuMemFreeHost, void*)                                                                    \
  F(cuMemcpyHtoDAsync_v2, unsigned long long, const void*, std::size_t, CUstream_st*)        \
  F(cuMemcpyDtoHAsync_v2, void*, unsigned long long, std::size_t, CUstream_st*)              \
  F(cuMemcpyDtoDAsync_v2, unsigned long long, unsigned long long, std::size_t, CUstream_st*) \
  F(cuMemsetD8Async, unsigned long long, unsigned char, std::size_t, CUstream_st*)           \
  F(cuStreamCreate, CUstream_st**, unsigned)                                                 \
  F(cuStreamDestroy_v2, CUstream_st*)                                                        \
  F(cuStreamSynchronize, CUstream_st*)                                                       \
  F(cuStreamBeginCapture_v2, CUstream_st*, int)                                              \
  F(cuStreamEndCapture, CUstream_st*, CUgraph_st**)                                          \
  F(cuGraphInstantiateWithFlags, CUgraphExec_st**, CUgraph_st*, unsigned long long)          \
  F(cuGraphDestroy, CUgraph_st*)                                                             \
  F(cuGraphExecDestroy, CUgraphExec_st*)                                                     \
  F(cuGraphLaunch, CUgraphExec_st*, CUstream_st*)

// GPUs that the driver sees; 0 without a driver.
int cuda_device_count();

// The driver, and one device's primary context, which ONNX Runtime and TensorRT use as well.
class CudaDevice {
 public:
  explicit CudaDevice(int index);  // throws Error(unavailable)

  // Every thread that is about to use the device says so.
  void make_current() const;
  void check(int result, const char* call) const;  // throws Error(runtime)

#define XLSTM_DECLARE(name, ...) int (*name)(__VA_ARGS__) = nullptr;
  XLSTM_CUDA_DRIVER(XLSTM_DECLARE)
#undef XLSTM_DECLARE

 private:
  CUctx_st* context_ = nullptr;
};

#define XLSTM_CUDA(device, call, ...) (device).check((device).call(__VA_ARGS__), #call)

// Page-locked memory of the host, zeroed: a GPU reads and writes it while the host goes on.
class PinnedBuffer {
 public:
  PinnedBuffer(const CudaDevice& device, std::size_t bytes);
  PinnedBuffer(const PinnedBuffer&) = delete;
  ~PinnedBuffer();
  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  const CudaDevice& device_;
  std::size_t bytes_;
  void* data_ = nullptr;
};

// Work on a device, done in the order in which it is queued.
class CudaStream {
 public:
  explicit CudaStream(const CudaDevice& device);
  CudaStream(const CudaStream&) = delete;
  ~CudaStream();
  operator CUstream_st*() const { return stream_; }
  const CudaDevice& device() const { return device_; }
  void synchronize() const;

 private:
  const CudaDevice& device_;
  CUstream_st* stream_ = nullptr;
};

}  // namespace xlstm::internal
