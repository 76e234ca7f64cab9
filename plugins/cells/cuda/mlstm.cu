#include <algorithm>

#include "cells/cuda/device_limits.h"
#include "cells/cuda/launch.h"
#include "cells/cuda/mlstm_chunkwise.cuh"
#include "cells/cuda/mlstm_step.cuh"

namespace xlstm::cuda {
namespace {

bool valid(const MlstmArgs& a) {
  return a.batch >= 0 && a.sequence >= 0 && a.heads >= 0 && a.dim_qk >= 0 && a.dim_v >= 0 && a.q && a.k && a.v && a.i &&
         a.f && a.C_in && a.n_in && a.m_in && a.h && a.C_out && a.n_out && a.m_out;
}

bool fits_vector(const MlstmArgs& a) {
  const auto size = [](DataType type) { return type == DataType::kFloat32 ? sizeof(float) : sizeof(__half); };
  const size_t memory = 4 * size(a.memory_type);
  return a.dim_v % 4 == 0 && is_aligned(a.C_in, memory) && is_aligned(a.C_out, memory) &&
         is_aligned(a.v, 4 * size(a.type));
}

bool normaliser_in_place(const MlstmArgs& a) { return a.n_in == a.n_out || a.m_in == a.m_out; }

cudaLaunchConfig_t make_config(int64_t blocks, int threads, size_t shared_bytes, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return config;
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

// Calls fn(layout) with the layout of every shape that the chunkwise kernel has.
template <typename Function>
void for_each_chunk(Function&& fn) {
  fn(ChunkLayout<64, 64>{});
  fn(ChunkLayout<64, 32>{});
  fn(ChunkLayout<32, 32>{});
  fn(ChunkLayout<32, 16>{});
}

template <typename T, typename M, int kLength, int kColumns>
cudaError_t launch_chunkwise(const MlstmArgs& args, cudaStream_t stream) {
  const int64_t heads = args.batch * args.heads;
  const int64_t tiles = ceil_div<int64_t>(args.dim_v, kColumns);
  if (heads * tiles > INT32_MAX) return cudaErrorInvalidConfiguration;
  const size_t activation = sizeof(T);
  const bool vectorised = fits_vector(args) && args.dim_qk % 4 == 0 && is_aligned(args.q, 4 * activation) &&
                          is_aligned(args.k, 4 * activation);
  const bool one_launch = tiles == 1 || !normaliser_in_place(args);

  const int64_t shared_bytes = ChunkLayout<kLength, kColumns>::bytes(args.dim_qk);
  constexpr auto kKernel = mlstm_chunkwise_kernel<T, M, kLength, kColumns>;
  DeviceLimits limits;
  cudaError_t status = query_limits(limits);
  if (status == cudaSuccess) status = allow_shared_memory<kKernel>(limits);
  if (status != cudaSuccess) return status;
  cudaLaunchConfig_t config = make_config(heads * tiles, chunk_threads(kLength), shared_bytes, stream);
  status = cudaLaunchKernelEx(&config, kKernel, args, vectorised, one_launch);
  if (status != cudaSuccess || one_launch) return status;
  config = make_config(heads, chunk_threads(kLength), 0, stream);
  return cudaLaunchKernelEx(&config, mlstm_chunkwise_normaliser_kernel<T, kLength>, args);
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

cudaError_t launch_mlstm_tiled(const MlstmArgs& args, MlstmTile tile, cudaStream_t stream) {
  if (args.batch == 0 || args.heads == 0 || args.dim_v == 0 || args.sequence == 0) return cudaSuccess;
  if (!valid(args) || args.dim_qk == 0) return cudaErrorInvalidValue;
  for (const int64_t extent : {args.batch, args.sequence, args.heads, args.dim_qk * args.dim_v}) {
    if (extent > INT32_MAX) return cudaErrorInvalidConfiguration;
  }
  DeviceLimits limits;
  cudaError_t status = query_limits(limits);
  if (status != cudaSuccess) return status;
  status = cudaErrorInvalidValue;
  dispatch_types(args, [&](auto activation, auto memory) {
    status = launch_typed<decltype(activation), decltype(memory)>(args, tile, limits, stream);
  });
  return status;
}

MlstmChunk choose_mlstm_chunk(const MlstmArgs& args, int multiprocessors, int64_t shared_limit) {
  MlstmChunk best{};
  int64_t best_work = INT64_MAX;
  for_each_chunk([&](auto layout) {
    using Layout = decltype(layout);
    if (Layout::bytes(args.dim_qk) > shared_limit) return;
    // Short chunks only for short sequences, and where long ones do not fit.
    const bool preferred = (Layout::kLength == 64) == (args.sequence > 32);
    if (best.length && !preferred) return;
    const int64_t blocks = args.batch * args.heads * ceil_div<int64_t>(args.dim_v, Layout::kColumns);
    // Products of the busiest multiprocessor for a position: every block repeats the scores of its head.
    const int64_t work = ceil_div<int64_t>(blocks, multiprocessors) * (Layout::kLength + 2 * Layout::kColumns);
    if (best.length && work >= best_work) return;
    best = {Layout::kLength, Layout::kColumns};
    best_work = work;
  });
  return best;
}

cudaError_t launch_mlstm_chunkwise(const MlstmArgs& args, MlstmChunk chunk, cudaStream_t stream) {
  if (args.batch == 0 || args.heads == 0 || args.dim_v == 0 || args.sequence == 0) return cudaSuccess;
  if (!valid(args)) return cudaErrorInvalidValue;
  cudaError_t status = cudaErrorInvalidValue;
  for_each_chunk([&](auto layout) {
    using Layout = decltype(layout);
    if (chunk.length != Layout::kLength || chunk.columns != Layout::kColumns) return;
    dispatch_types(args, [&](auto activation, auto memory) {
      using T = decltype(activation);
      status = launch_chunkwise<T, decltype(memory), Layout::kLength, Layout::kColumns>(args, stream);
    });
  });
  return status;
}

cudaError_t launch_mlstm(const MlstmArgs& args, cudaStream_t stream) {
  DeviceLimits limits;
  const cudaError_t status = query_limits(limits);
  if (status != cudaSuccess) return status;
  if (args.sequence > 1) {
    const MlstmChunk chunk = choose_mlstm_chunk(args, limits.multiprocessors, limits.shared_bytes);
    if (chunk.length) return launch_mlstm_chunkwise(args, chunk, stream);
  }
  return launch_mlstm_tiled(args, choose_mlstm_tile(args, limits.multiprocessors), stream);
}

}  // namespace xlstm::cuda
