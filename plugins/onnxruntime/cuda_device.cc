// The CUDA kernels on the stream of ONNX Runtime's CUDA execution provider.
#include <cuda_runtime_api.h>

#include <string>

#include "cells/cuda/launch.h"
#include "onnxruntime/device.h"

namespace xlstm::ort {
namespace {

void check(cudaError_t error, const char* cell) {
  if (error == cudaSuccess) return;
  throw Ort::Exception(std::string(cell) + " failed on CUDA: " + cudaGetErrorString(error), ORT_EP_FAIL);
}

cudaStream_t stream(OrtKernelContext* context) {
  return static_cast<cudaStream_t>(Ort::KernelContext(context).GetGPUComputeStream());
}

void mlstm(const MlstmArgs& args, OrtKernelContext* context) {
  check(cuda::launch_mlstm(args, stream(context)), "MLSTMCell");
}

void slstm(const SlstmArgs& args, OrtKernelContext* context) {
  const size_t bytes = cuda::slstm_workspace_size(args.batch, args.heads, args.dim);
  const bool needs_workspace = bytes > 0 && (args.sequence > 1 || args.y_in == args.y_out);
  if (!needs_workspace) return check(cuda::launch_slstm(args, nullptr, stream(context)), "SLSTMCell");
  // Given out and taken back in the order of the stream. An allocator of ONNX Runtime's knows no stream: it would hand
  // the memory to a run on another one while the kernel is still waiting.
  void* workspace = nullptr;
  check(cudaMallocAsync(&workspace, bytes, stream(context)), "SLSTMCell's workspace");
  const cudaError_t launched = cuda::launch_slstm(args, workspace, stream(context));
  check(cudaFreeAsync(workspace, stream(context)), "SLSTMCell's workspace");
  check(launched, "SLSTMCell");
}

}  // namespace

const Device kCuda{"CUDAExecutionProvider", mlstm, slstm};

}  // namespace xlstm::ort
