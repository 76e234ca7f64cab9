// Entry points of the CUDA kernels. All work is enqueued on `stream`; nothing is allocated, nothing synchronises, so a
// call can be captured into a CUDA graph. Every pointer is device memory. Invalid arguments (a null pointer, an extent
// < 0, an unknown type) return cudaErrorInvalidValue before anything is enqueued.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "cells/cells.h"

namespace xlstm::cuda {

// Any B, S, H, DK, DV; states out of place, or each in the very buffer of its input. One launch out of place, two in
// place (n and m are read by every block of a head, so a second small kernel writes them).
cudaError_t launch_mlstm(const MlstmArgs& args, cudaStream_t stream);

// Bytes of scratch that launch_slstm needs for these sizes: a second buffer for y, 4 * B * H * DH bytes. It is used
// where y is updated in place or S > 1; for one step with y_in != y_out `workspace` may be null.
size_t slstm_workspace_size(int64_t batch, int64_t heads, int64_t dim);

// Any B, S, H, DH; states out of place or in place. One launch for each position of the sequence.
cudaError_t launch_slstm(const SlstmArgs& args, void* workspace, cudaStream_t stream);

}  // namespace xlstm::cuda
