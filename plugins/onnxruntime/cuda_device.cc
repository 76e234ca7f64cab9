// The CUDA kernels on the stream of ONNX Runtime's CUDA execution provider.
#include <cuda_runtime_api.h>

#include <memory>
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
  // From the arena of the device that holds the inputs. It may hand the memory on as soon as this returns: whoever gets
  // it runs later on the same stream.
  const OrtApi& api = Ort::GetApi();
  const OrtValue* x = nullptr;
  const OrtMemoryInfo* memory = nullptr;
  OrtAllocator* allocator = nullptr;
  Ort::ThrowOnError(api.KernelContext_GetInput(context, 0, &x));
  Ort::ThrowOnError(api.GetTensorMemoryInfo(x, &memory));
  Ort::ThrowOnError(api.KernelContext_GetAllocator(context, memory, &allocator));
  struct Release {
    OrtAllocator* allocator;
    void operator()(OrtAllocator* owned) const { Ort::GetApi().ReleaseAllocator(owned); }
    void operator()(void* memory) const { allocator->Free(allocator, memory); }
  };
  const std::unique_ptr<OrtAllocator, Release> owner(allocator, Release{allocator});
  const std::unique_ptr<void, Release> workspace(allocator->Alloc(allocator, bytes), Release{allocator});
  check(workspace ? cudaSuccess : cudaErrorMemoryAllocation, "SLSTMCell");
  check(cuda::launch_slstm(args, workspace.get(), stream(context)), "SLSTMCell");
}

}  // namespace

const Device kCuda{"CUDAExecutionProvider", mlstm, slstm};

}  // namespace xlstm::ort
