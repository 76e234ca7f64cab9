// What the launchers of the mLSTM kernels share.
#pragma once

#include <cuda_runtime.h>

#include "cells/cells.h"
#include "cells/cuda/device_limits.h"
#include "cells/cuda/launch.h"

namespace xlstm::cuda {

inline bool valid(const MlstmArgs& a) {
  return a.batch >= 0 && a.sequence >= 0 && a.heads >= 0 && a.dim_qk >= 0 && a.dim_v >= 0 && a.q && a.k && a.v && a.i &&
         a.f && a.C_in && a.n_in && a.m_in && a.h && a.C_out && a.n_out && a.m_out;
}

inline bool normaliser_in_place(const MlstmArgs& a) { return a.n_in == a.n_out || a.m_in == a.m_out; }

// The shape of the chunkwise kernel that is meant for these sizes; length 0 says that none fits.
MlstmChunk choose_mlstm_chunk(const MlstmArgs& args, const DeviceLimits& limits);

// With what the device has said already; launch.h's ask it.
cudaError_t launch_mlstm_chunkwise(const MlstmArgs& args, MlstmChunk chunk, const DeviceLimits& limits,
                                   cudaStream_t stream);

}  // namespace xlstm::cuda
