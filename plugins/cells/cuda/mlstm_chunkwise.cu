#include "cells/cuda/mlstm_chunkwise.cuh"

#include <algorithm>

#include "cells/cuda/device_limits.h"
#include "cells/cuda/launch.h"
#include "cells/cuda/mlstm_launch.h"
#include "cells/cuda/mlstm_sequence_normaliser.cuh"
#include "cells/cuda/mlstm_tensor.cuh"

namespace xlstm::cuda {
namespace {

// A shape of the kernel in float32 arithmetic.
template <int kChunkLength, int kTileColumns>
struct FloatShape {
  using Layout = ChunkLayout<kChunkLength, kTileColumns>;
  static constexpr int kLength = kChunkLength, kColumns = kTileColumns, kThreads = chunk_threads(kLength);
  static constexpr int kVector = 4;                     // elements that move together
  static constexpr int kWork = kLength + 2 * kColumns;  // products for a position
  static constexpr int kResident = resident_chunks(kLength, kColumns);
  template <typename T>
  static constexpr bool takes() {
    return true;
  }

  static int64_t bytes(const MlstmArgs& args) { return Layout::bytes(args.dim_qk); }
  static bool fits(const MlstmArgs&) { return true; }
  // Short chunks only for short sequences, and where long ones do not fit.
  static bool suits(const MlstmArgs& args) { return (kLength == 64) == (args.sequence > 32); }
  template <typename T>
  static constexpr auto kernel() {
    return mlstm_chunkwise_kernel<T, kLength, kColumns>;
  }
};

// A shape of the kernel on the tensor cores, which has registers for so many slabs of C.
template <int kTileColumns, int kSlabs>
struct TensorShape {
  static constexpr int kLength = kChunk, kColumns = kTileColumns, kThreads = kTensorThreads;
  static constexpr int kVector = kPiece;
  static constexpr int kWork = 44 + kColumns;  // traffic of shared memory: the scores, with Q and K, and the rest
  static constexpr int kResident = 1;
  // The two parts of a float16 take registers that six slabs of 32 columns do not leave.
  static constexpr bool kTakesHalf = kColumns != 32 || kSlabs < 6;
  template <typename T>
  static constexpr bool takes() {
    return std::is_same_v<T, __nv_bfloat16> || (std::is_same_v<T, __half> && kTakesHalf);
  }

  static int64_t bytes(const MlstmArgs&) { return sizeof(TensorMemory<kColumns>); }
  static bool fits(const MlstmArgs& args) {
    return args.dim_qk > 0 && args.dim_qk <= kSlabs * kSlab && (kTakesHalf || args.type != DataType::kFloat16);
  }
  static bool suits(const MlstmArgs&) { return true; }
  template <typename T>
  static constexpr auto kernel() {
    return mlstm_tensor_kernel<T, kColumns, kSlabs>;
  }
};

// Whether there is code for tensor cores with operands of 16 bits for these activations on this device.
bool on_tensor_cores(const MlstmArgs& args, const DeviceLimits& limits) {
  if (args.type == DataType::kFloat32) return false;
  int architecture = 0;
  constexpr auto kKernel = TensorShape<32, 4>::kernel<__nv_bfloat16>();
  return query_architecture<kKernel>(limits.device, architecture) == cudaSuccess && architecture >= 80;
}

// Calls fn(shape) with every shape that there is for these sizes on this device.
template <typename Function>
void for_each_shape(const MlstmArgs& args, const DeviceLimits& limits, Function&& fn) {
  const auto offer = [&](auto shape) {
    if (shape.fits(args) && shape.bytes(args) <= limits.shared_bytes) fn(shape);
  };
  if (on_tensor_cores(args, limits)) {
    offer(TensorShape<32, 4>{});
    offer(TensorShape<32, 6>{});
    offer(TensorShape<16, 8>{});
    offer(TensorShape<16, 16>{});
  } else {
    offer(FloatShape<64, 64>{});
    offer(FloatShape<64, 32>{});
    offer(FloatShape<32, 32>{});
    offer(FloatShape<32, 16>{});
  }
}

bool moves_vectors(const MlstmArgs& a, int vector) {
  const auto bytes = [](int64_t count, DataType type) { return static_cast<size_t>(count * element_size(type)); };
  const auto aligned = [&](const void* tensor) { return is_aligned(tensor, bytes(vector, a.type)); };
  const size_t memory = bytes(4, a.memory_type);
  return a.dim_qk % vector == 0 && a.dim_v % vector == 0 && aligned(a.q) && aligned(a.k) && aligned(a.v) &&
         aligned(a.h) && is_aligned(a.C_in, memory) && is_aligned(a.C_out, memory);
}

template <typename T, typename Shape>
cudaError_t launch_shape(const MlstmArgs& args, const DeviceLimits& limits, cudaStream_t stream) {
  const int64_t heads = args.batch * args.heads;
  const int64_t tiles = ceil_div<int64_t>(args.dim_v, Shape::kColumns);
  if (heads * tiles > INT32_MAX || args.dim_qk * args.dim_v > INT32_MAX || args.sequence > INT32_MAX - Shape::kLength) {
    return cudaErrorInvalidConfiguration;
  }
  const bool one_launch = tiles == 1 || !normaliser_in_place(args);

  constexpr auto kKernel = Shape::template kernel<T>();
  cudaError_t status = allow_shared_memory<kKernel>(limits);
  if (status != cudaSuccess) return status;
  const size_t shared_bytes = static_cast<size_t>(Shape::bytes(args));
  cudaLaunchConfig_t config = make_config(static_cast<unsigned>(heads * tiles), Shape::kThreads, shared_bytes, stream);
  status = cudaLaunchKernelEx(&config, kKernel, args, moves_vectors(args, Shape::kVector), one_launch);
  if (status != cudaSuccess || one_launch) return status;
  config = make_config(static_cast<unsigned>(heads), kNormaliserThreads, 0, stream);
  return cudaLaunchKernelEx(&config, mlstm_sequence_normaliser_kernel<T>, args);
}

// What a sequence takes on the busiest multiprocessor, in the unit of kWork: blocks that are there together share it,
// but a wave of them waits about as long as half of one's work takes.
template <typename Shape>
int64_t cost(const MlstmArgs& args, const DeviceLimits& limits) {
  const int64_t blocks = args.batch * args.heads * ceil_div<int64_t>(args.dim_v, Shape::kColumns);
  const int64_t busiest = ceil_div<int64_t>(blocks, limits.multiprocessors);
  constexpr int64_t kReserved = 1024;  // bytes of shared memory that every block takes besides
  const int64_t resident = std::max<int64_t>(
      1, std::min<int64_t>(Shape::kResident, limits.multiprocessor_shared_bytes / (Shape::bytes(args) + kReserved)));
  return ceil_div(busiest, resident) * Shape::kWork * (1 + 2 * std::min(busiest, resident));
}

}  // namespace

MlstmChunk choose_mlstm_chunk(const MlstmArgs& args, const DeviceLimits& limits) {
  MlstmChunk best{};
  bool best_suits = false;
  int64_t best_cost = 0;
  for_each_shape(args, limits, [&](auto shape) {
    using Shape = decltype(shape);
    const bool suits = Shape::suits(args);
    const int64_t shape_cost = cost<Shape>(args, limits);
    if (best.length && (suits != best_suits ? best_suits : shape_cost >= best_cost)) return;
    best = {Shape::kLength, Shape::kColumns};
    best_suits = suits;
    best_cost = shape_cost;
  });
  return best;
}

cudaError_t launch_mlstm_chunkwise(const MlstmArgs& args, MlstmChunk chunk, cudaStream_t stream) {
  DeviceLimits limits;
  const cudaError_t status = query_limits(limits);
  return status == cudaSuccess ? launch_mlstm_chunkwise(args, chunk, limits, stream) : status;
}

cudaError_t launch_mlstm_chunkwise(const MlstmArgs& args, MlstmChunk chunk, const DeviceLimits& limits,
                                   cudaStream_t stream) {
  if (args.batch == 0 || args.heads == 0 || args.dim_v == 0 || args.sequence == 0) return cudaSuccess;
  if (!valid(args)) return cudaErrorInvalidValue;
  cudaError_t status = cudaErrorInvalidValue;  // where there is no such shape
  bool found = false;
  for_each_shape(args, limits, [&](auto shape) {
    using Shape = decltype(shape);
    if (found || chunk.length != Shape::kLength || chunk.columns != Shape::kColumns) return;
    found = true;
    dispatch_type(args.type, [&](auto activation) {
      using T = decltype(activation);
      if constexpr (Shape::template takes<T>()) status = launch_shape<T, Shape>(args, limits, stream);
    });
  });
  return status;
}

}  // namespace xlstm::cuda
