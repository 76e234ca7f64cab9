#include "cells/cuda/device_limits.h"
#include "cells/cuda/launch.h"
#include "cells/cuda/mlstm_launch.h"
#include "cells/cuda/mlstm_step.cuh"

namespace xlstm::cuda {
namespace {

// One sequence in one launch keeps n in shared memory; 40 KiB is there on every GPU beside the static part.
constexpr int64_t kMaxSharedNormaliser = 10 * 1024;

bool fits_vector(const MlstmArgs& a) {
  const auto size = [](DataType type) { return type == DataType::kFloat32 ? sizeof(float) : sizeof(__half); };
  const size_t memory = 4 * size(a.memory_type);
  return a.dim_v % 4 == 0 && is_aligned(a.C_in, memory) && is_aligned(a.C_out, memory) &&
         is_aligned(a.v, 4 * size(a.type));
}

// Positions [begin, end), whose states the arguments give at `begin`.
template <typename T, typename M, int kVector, int kLanes>
cudaError_t launch_positions(const MlstmArgs& args, int64_t begin, int64_t end, cudaStream_t stream) {
  const int64_t heads = args.batch * args.heads;
  const int64_t tiles = ceil_div<int64_t>(args.dim_v, kVector * kLanes);
  if (heads * tiles > INT32_MAX || args.dim_qk * args.dim_v > INT32_MAX) return cudaErrorInvalidConfiguration;
  const bool one_launch = tiles == 1 || !normaliser_in_place(args);

  const size_t shared_bytes = end - begin > 1 ? sizeof(float) * args.dim_qk : 0;
  cudaLaunchConfig_t config = make_config(heads * tiles, kMlstmThreads, shared_bytes, stream);
  cudaError_t status =
      cudaLaunchKernelEx(&config, mlstm_step_kernel<T, M, kVector, kLanes>, args, begin, end, one_launch);
  if (status != cudaSuccess || one_launch) return status;
  config = make_config(heads, kMlstmThreads, 0, stream);
  return cudaLaunchKernelEx(&config, mlstm_normaliser_kernel<T>, args, begin, end);
}

template <typename T, typename M, int kVector, int kLanes>
cudaError_t launch_sequence(MlstmArgs args, cudaStream_t stream) {
  if (args.sequence <= 1 || args.dim_qk <= kMaxSharedNormaliser) {
    return launch_positions<T, M, kVector, kLanes>(args, 0, args.sequence, stream);
  }
  for (int64_t position = 0; position < args.sequence; ++position) {
    const cudaError_t status = launch_positions<T, M, kVector, kLanes>(args, position, position + 1, stream);
    if (status != cudaSuccess) return status;
    args.C_in = args.C_out;
    args.n_in = args.n_out;
    args.m_in = args.m_out;
  }
  return cudaSuccess;
}

template <typename T, typename M>
cudaError_t launch_typed(const MlstmArgs& args, MlstmTile tile, cudaStream_t stream) {
  if (tile.vector == 1 && tile.lanes == 32) return launch_sequence<T, M, 1, 32>(args, stream);
  if (tile.vector != 4 || !fits_vector(args)) return cudaErrorInvalidValue;
  switch (tile.lanes) {
    case 4:
      return launch_sequence<T, M, 4, 4>(args, stream);
    case 8:
      return launch_sequence<T, M, 4, 8>(args, stream);
    case 32:
      return launch_sequence<T, M, 4, 32>(args, stream);
  }
  return cudaErrorInvalidValue;
}

// Calls fn(T{}, M{}) with the C++ types of the activations and of C.
template <typename Function>
void dispatch_types(const MlstmArgs& args, Function&& fn) {
  dispatch_type(args.type, [&](auto activation) {
    dispatch_type(args.memory_type, [&](auto memory) { fn(activation, memory); });
  });
}

}  // namespace

MlstmTile choose_mlstm_tile(const MlstmArgs& args, int multiprocessors) {
  if (!fits_vector(args)) return {1, 32};
  // The widest tile that still gives every multiprocessor two blocks; a narrow one moves 64 bytes of a row, two whole
  // memory sectors, so filling the GPU costs no traffic. Tiles much wider than the matrix would idle.
  for (const int lanes : {32, 8}) {
    const int64_t columns = 4 * lanes;
    const int64_t blocks = args.batch * args.heads * ceil_div<int64_t>(args.dim_v, columns);
    if (columns < 2 * args.dim_v && blocks >= 2 * int64_t{multiprocessors}) return {4, lanes};
  }
  return {4, 4};
}

cudaError_t launch_mlstm_tiled(const MlstmArgs& args, MlstmTile tile, cudaStream_t stream) {
  if (args.batch == 0 || args.heads == 0 || args.dim_v == 0 || args.sequence == 0) return cudaSuccess;
  if (!valid(args)) return cudaErrorInvalidValue;
  cudaError_t status = cudaErrorInvalidValue;
  dispatch_types(args, [&](auto activation, auto memory) {
    status = launch_typed<decltype(activation), decltype(memory)>(args, tile, stream);
  });
  return status;
}

cudaError_t launch_mlstm(const MlstmArgs& args, cudaStream_t stream) {
  DeviceLimits limits;
  const cudaError_t status = query_limits(limits);
  if (status != cudaSuccess) return status;
  if (args.sequence > 1) {
    const MlstmChunk chunk = choose_mlstm_chunk(args, limits);
    if (chunk.length) return launch_mlstm_chunkwise(args, chunk, stream);
  }
  return launch_mlstm_tiled(args, choose_mlstm_tile(args, limits.multiprocessors), stream);
}

}  // namespace xlstm::cuda
