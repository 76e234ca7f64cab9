// The CUDA launchers behind a C interface, for Python through ctypes: the argument structs are plain data.
#include "cells/cuda/launch.h"
#include "runtime/device_sampler.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int xlstm_launch_mlstm(const xlstm::MlstmArgs* args, void* stream) {
  return xlstm::cuda::launch_mlstm(*args, static_cast<cudaStream_t>(stream));
}

EXPORT int xlstm_launch_mlstm_tiled(const xlstm::MlstmArgs* args, int vector, int lanes, void* stream) {
  return xlstm::cuda::launch_mlstm_tiled(*args, {vector, lanes}, static_cast<cudaStream_t>(stream));
}

EXPORT int xlstm_launch_mlstm_chunkwise(const xlstm::MlstmArgs* args, int length, int columns, void* stream) {
  return xlstm::cuda::launch_mlstm_chunkwise(*args, {length, columns}, static_cast<cudaStream_t>(stream));
}

EXPORT int xlstm_launch_slstm(const xlstm::SlstmArgs* args, void* workspace, void* stream) {
  return xlstm::cuda::launch_slstm(*args, workspace, static_cast<cudaStream_t>(stream));
}

EXPORT int64_t xlstm_slstm_workspace_size(int64_t batch, int64_t heads, int64_t dim) {
  return static_cast<int64_t>(xlstm::cuda::slstm_workspace_size(batch, heads, dim));
}

EXPORT int xlstm_launch_sample(const float* logits, const double* uniforms, int64_t* tokens, void* scratch, int batch,
                               int vocabulary, double temperature, uint64_t top_k, double top_p, void* stream) {
  const xlstm::cuda::SampleArgs args{logits,      uniforms, tokens, static_cast<uint64_t*>(scratch), batch, vocabulary,
                                     temperature, top_k,    top_p};
  return xlstm::cuda::launch_sample(args, static_cast<cudaStream_t>(stream));
}

EXPORT int64_t xlstm_sample_scratch_size(int64_t batch, int64_t vocabulary) {
  return batch * vocabulary * static_cast<int64_t>(sizeof(uint64_t));
}

// For Python to hold its own declarations of the structs against.
EXPORT int xlstm_size_of_mlstm_args() { return sizeof(xlstm::MlstmArgs); }
EXPORT int xlstm_size_of_slstm_args() { return sizeof(xlstm::SlstmArgs); }
