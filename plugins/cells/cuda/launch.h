// Entry points of the CUDA kernels. All work is enqueued on `stream`; nothing is allocated, nothing synchronises, so a
// call can be captured into a CUDA graph. Every pointer is device memory. A null pointer, a negative extent or an
// unknown type returns cudaErrorInvalidValue before anything is enqueued.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "cells/cells.h"

namespace xlstm::cuda {

// Any B, S, H, DK, DV; states out of place, or each in the very buffer of its input. One launch, also with C in place;
// two with n or m in place (every block of a head reads them, so a second, small kernel writes them). A sequence goes
// through the chunkwise kernel where a tile of C fits into a block's shared memory, else position by position through
// the step kernel. On sm_90 and later the step kernel starts early, and waits there for all that is before it in the
// stream (dependent_launch.cuh): a captured graph then has programmatic edges.
cudaError_t launch_mlstm(const MlstmArgs& args, cudaStream_t stream);

// Bytes of scratch that launch_slstm needs for these sizes: two buffers for y, eight bytes a value.
inline size_t slstm_workspace_size(int64_t batch, int64_t heads, int64_t dim) {
  return 2 * sizeof(uint64_t) * static_cast<size_t>(batch * heads * dim);
}

// Any B, S, H, DH; states out of place or in place. A sequence is one launch of thread-block clusters where the device
// has them and R fits into their registers, one cooperative launch where R fits into the shared memory of all
// multiprocessors together, else one launch for each position. `workspace` (16-byte aligned, whatever it
// holds) may be null where S == 1 and y_out != y_in, which is where it is not used.
cudaError_t launch_slstm(const SlstmArgs& args, void* workspace, cudaStream_t stream);

// For tests and tuning: the columns of C that a block of the mLSTM kernel owns (vector * lanes), and a launch with it.
// The shapes that exist: vector 4 with lanes 2, 4, 8 or 32; vector 1 with lanes 32.
struct MlstmTile {
  int vector;  // columns a thread owns; 4 needs DV % 4 == 0 and aligned pointers
  int lanes;   // threads side by side along a row of C
};
MlstmTile choose_mlstm_tile(const MlstmArgs& args, int multiprocessors);
cudaError_t launch_mlstm_tiled(const MlstmArgs& args, MlstmTile tile, cudaStream_t stream);

// The same for the chunkwise kernels: positions of a chunk and columns of C that a block owns. The shapes that exist:
// for activations of 16 bits from sm_80 on, length 64 with columns 32 (DK up to 384, of float16 up to 256) or 16 (up to
// 1024); else length 64 with columns 64 or 32, and length 32 with columns 32 or 16.
struct MlstmChunk {
  int length;
  int columns;
};
cudaError_t launch_mlstm_chunkwise(const MlstmArgs& args, MlstmChunk chunk, cudaStream_t stream);

}  // namespace xlstm::cuda
