#include <algorithm>

#include "cells/cuda/device_limits.h"
#include "cells/cuda/launch.h"
#include "cells/cuda/mlstm_launch.h"
#include "cells/cuda/mlstm_step.cuh"

namespace xlstm::cuda {
namespace {

bool fits_vector(const MlstmArgs& a) {
  const auto four = [](DataType type) { return static_cast<size_t>(4 * element_size(type)); };
  const size_t memory = four(a.memory_type);
  return a.dim_v % 4 == 0 && is_aligned(a.C_in, memory) && is_aligned(a.C_out, memory) && is_aligned(a.v, four(a.type));
}

// One position: as many launches as batch rows and heads fill grids, and as many again for n and m in place.
template <typename T, typename M, int kVector, int kLanes>
cudaError_t launch_position(const MlstmArgs& args, int64_t position, const DeviceLimits& limits, cudaStream_t stream) {
  const auto number = [](int64_t value) { return static_cast<unsigned>(value); };
  const int64_t tiles = ceil_div<int64_t>(args.dim_v, kVector * kLanes), most = limits.grid_height;
  const bool one_launch = tiles == 1 || !normaliser_in_place(args);
  for (int64_t row = 0; row < args.batch; row += most) {
    for (int64_t head = 0; head < args.heads; head += most) {
      const MlstmSlice slice{number(position), number(row), number(head)};
      dim3 grid(number(tiles), number(std::min(args.heads - head, most)), number(std::min(args.batch - row, most)));
      constexpr auto kStep = mlstm_step_kernel<T, M, kVector, kLanes>;
      cudaError_t status = launch_early<kStep>(limits, grid, kMlstmThreads, stream, args, slice, one_launch);
      if (status == cudaSuccess && !one_launch) {
        grid.x = 1;
        status = launch_early<mlstm_normaliser_kernel<T>>(limits, grid, kMlstmThreads, stream, args, slice);
      }
      if (status != cudaSuccess) return status;
    }
  }
  return cudaSuccess;
}

template <typename T, typename M, int kVector, int kLanes>
cudaError_t launch_positions(MlstmArgs args, const DeviceLimits& limits, cudaStream_t stream) {
  for (int64_t position = 0; position < args.sequence; ++position) {
    const cudaError_t status = launch_position<T, M, kVector, kLanes>(args, position, limits, stream);
    if (status != cudaSuccess) return status;
    args.C_in = args.C_out;
    args.n_in = args.n_out;
    args.m_in = args.m_out;
  }
  return cudaSuccess;
}

template <typename T, typename M>
cudaError_t launch_typed(const MlstmArgs& args, MlstmTile tile, const DeviceLimits& limits, cudaStream_t stream) {
  if (tile.vector == 1 && tile.lanes == 32) return launch_positions<T, M, 1, 32>(args, limits, stream);
  if (tile.vector != 4 || !fits_vector(args)) return cudaErrorInvalidValue;
  switch (tile.lanes) {
    case 2:
      return launch_positions<T, M, 4, 2>(args, limits, stream);
    case 4:
      return launch_positions<T, M, 4, 4>(args, limits, stream);
    case 8:
      return launch_positions<T, M, 4, 8>(args, limits, stream);
    case 32:
      return launch_positions<T, M, 4, 32>(args, limits, stream);
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
  const auto blocks = [&](int lanes) { return args.batch * args.heads * ceil_div<int64_t>(args.dim_v, 4 * lanes); };
  // The widest tile that still gives every multiprocessor two blocks; a narrow one moves 64 bytes of a row, two whole
  // memory sectors, so filling the GPU costs no traffic. Tiles much wider than the matrix would idle.
  for (const int lanes : {32, 8}) {
    if (4 * lanes < 2 * args.dim_v && blocks(lanes) >= 2 * int64_t{multiprocessors}) return {4, lanes};
  }
  // Where even narrow tiles leave multiprocessors idle: those of one sector, with twice the rows in flight. They take
  // twice the cache lines an instruction, which costs less than half of the GPU.
  const bool one_sector = args.memory_type == DataType::kFloat32;
  return {4, one_sector && blocks(4) < multiprocessors ? 2 : 4};
}

namespace {

cudaError_t launch_tile(const MlstmArgs& args, MlstmTile tile, const DeviceLimits& limits, cudaStream_t stream) {
  if (args.batch == 0 || args.heads == 0 || args.dim_v == 0 || args.sequence == 0) return cudaSuccess;
  if (!valid(args) || args.dim_qk == 0) return cudaErrorInvalidValue;
  for (const int64_t extent : {args.batch, args.sequence, args.heads, args.dim_qk * args.dim_v}) {
    if (extent > INT32_MAX) return cudaErrorInvalidConfiguration;
  }
  cudaError_t status = cudaErrorInvalidValue;
  dispatch_types(args, [&](auto activation, auto memory) {
    status = launch_typed<decltype(activation), decltype(memory)>(args, tile, limits, stream);
  });
  return status;
}

}  // namespace

cudaError_t launch_mlstm_tiled(const MlstmArgs& args, MlstmTile tile, cudaStream_t stream) {
  DeviceLimits limits;
  const cudaError_t status = query_limits(limits);
  return status == cudaSuccess ? launch_tile(args, tile, limits, stream) : status;
}

cudaError_t launch_mlstm(const MlstmArgs& args, cudaStream_t stream) {
  DeviceLimits limits;
  const cudaError_t status = query_limits(limits);
  if (status != cudaSuccess) return status;
  if (args.sequence > 1) {
    const MlstmChunk chunk = choose_mlstm_chunk(args, limits);
    if (chunk.length) return launch_mlstm_chunkwise(args, chunk, limits, stream);
  }
  return launch_tile(args, choose_mlstm_tile(args, limits.multiprocessors), limits, stream);
}

}  // namespace xlstm::cuda
