#include "tensorrt/cell.h"

#include "cells/cuda/launch.h"

namespace xlstm::tensorrt {
namespace {

size_t no_workspace(const Extents&) { return 0; }

cudaError_t enqueue_mlstm(const Call& call, void*, cudaStream_t stream) {
  return cuda::launch_mlstm(mlstm_args(call), stream);
}

size_t workspace_of_slstm(const Extents& extents) {
  return cuda::slstm_workspace_size(extents['B'], extents['H'], extents['D']);
}

cudaError_t enqueue_slstm(const Call& call, void* workspace, cudaStream_t stream) {
  return cuda::launch_slstm(slstm_args(call), workspace, stream);
}

}  // namespace

const Cell kMlstmCell{kMlstm, no_workspace, enqueue_mlstm};
const Cell kSlstmCell{kSlstm, workspace_of_slstm, enqueue_slstm};

}  // namespace xlstm::tensorrt
