#include "cells/cuda/device_limits.h"
#include "cells/cuda/launch.h"
#include "cells/cuda/slstm_batch.cuh"
#include "cells/cuda/slstm_cluster.cuh"
#include "cells/cuda/slstm_sequence.cuh"
#include "cells/cuda/slstm_step.cuh"

namespace xlstm::cuda {
namespace {

bool valid(const SlstmArgs& a) {
  return a.batch >= 0 && a.sequence >= 0 && a.heads >= 0 && a.dim >= 0 && a.x && a.R && a.b && a.y_in && a.c_in &&
         a.n_in && a.m_in && a.hidden && a.y_out && a.c_out && a.n_out && a.m_out &&
         (a.recurrent_type == DataType::kFloat32 || a.recurrent_type == a.type);
}

template <typename T, typename RecurrentT, int kVector, int kRows>
cudaError_t launch_step(const SlstmArgs& args, const float* y_prev, float* y_next, int64_t position,
                        cudaStream_t stream) {
  const int64_t blocks = args.heads * ceil_div<int64_t>(args.dim, kSlstmUnits) * ceil_div<int64_t>(args.batch, kRows);
  if (blocks > INT32_MAX || args.batch > INT32_MAX - kRows || args.dim > INT32_MAX - kSlstmUnits) {
    return cudaErrorInvalidConfiguration;
  }
  const cudaLaunchConfig_t config = make_config(static_cast<unsigned>(blocks), kSlstmThreads, 0, stream);
  return cudaLaunchKernelEx(&config, slstm_step_kernel<T, RecurrentT, kVector, kRows>, args, y_prev, y_next, position);
}

// `launched` false: the kernel for many rows does not fit these types, sizes, pointers or this device.
template <typename T, typename RecurrentT>
cudaError_t launch_batch(const SlstmArgs& args, const float* y_prev, float* y_next, int64_t position, bool& launched,
                         cudaStream_t stream) {
  if constexpr (std::is_same_v<T, float>) {
    return cudaSuccess;
  } else {
    constexpr auto kKernel = slstm_batch_kernel<T, RecurrentT>;
    constexpr int kMinRows = 17;     // fewer are as quick without tensor cores
    constexpr int kMaxGrid = 65535;  // along y and z
    const bool fits = fits_batch(args, y_prev, y_next) && args.dim <= kMaxGrid && args.heads <= kMaxGrid &&
                      args.batch <= INT32_MAX - SlstmBatch::kRows;
    if (args.batch < kMinRows || !fits) return cudaSuccess;
    int device = 0, architecture = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) status = query_architecture<kKernel>(device, architecture);
    if (status != cudaSuccess || architecture < 80) return status;
    const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(args.batch, SlstmBatch::kRows)),
                    static_cast<unsigned>(ceil_div<int64_t>(args.dim, SlstmBatch::kUnits)),
                    static_cast<unsigned>(args.heads));
    const cudaLaunchConfig_t config = make_config(grid, kSlstmThreads, 0, stream);
    status = cudaLaunchKernelEx(&config, kKernel, args, y_prev, y_next, position);
    launched = status == cudaSuccess;
    return status;
  }
}

// 16 bytes of R at a time where the sizes and the pointers allow it.
template <typename T, typename RecurrentT>
cudaError_t launch_position(const SlstmArgs& args, const float* y_prev, float* y_next, int64_t position,
                            cudaStream_t stream) {
  bool launched = false;
  const cudaError_t status = launch_batch<T, RecurrentT>(args, y_prev, y_next, position, launched, stream);
  if (status != cudaSuccess || launched) return status;
  constexpr int kVector = 16 / sizeof(RecurrentT);
  const bool fits_vector = args.dim % kVector == 0 && is_aligned(args.R, 16) && is_aligned(y_prev, 16);
  if (!fits_vector) return launch_step<T, RecurrentT, 1, 8>(args, y_prev, y_next, position, stream);
  if (args.batch == 1) return launch_step<T, RecurrentT, kVector, 1>(args, y_prev, y_next, position, stream);
  return launch_step<T, RecurrentT, kVector, 8>(args, y_prev, y_next, position, stream);
}

template <typename T>
cudaError_t launch_position(const SlstmArgs& args, const float* y_prev, float* y_next, int64_t position,
                            cudaStream_t stream) {
  if (args.recurrent_type == args.type) return launch_position<T, T>(args, y_prev, y_next, position, stream);
  return launch_position<T, float>(args, y_prev, y_next, position, stream);
}

// Every position in a launch of its own; y alternates between y_out and `scratch` so that the last one writes y_out.
cudaError_t launch_positions(const SlstmArgs& args, float* scratch, cudaStream_t stream) {
  SlstmArgs step = args;
  const float* y_prev = args.y_in;
  if (args.y_in == args.y_out && args.sequence % 2 == 1) {  // the first position will write y_out
    const size_t bytes = sizeof(float) * static_cast<size_t>(args.batch * args.heads * args.dim);
    const cudaError_t status = cudaMemcpyAsync(scratch, args.y_in, bytes, cudaMemcpyDeviceToDevice, stream);
    if (status != cudaSuccess) return status;
    y_prev = scratch;
  }
  for (int64_t position = 0; position < args.sequence; ++position) {
    float* const y_next = (args.sequence - position) % 2 == 1 ? args.y_out : scratch;
    cudaError_t status = cudaErrorInvalidValue;
    dispatch_type(args.type, [&](auto example) {
      status = launch_position<decltype(example)>(step, y_prev, y_next, position, stream);
    });
    if (status != cudaSuccess) return status;
    y_prev = y_next;
    step.c_in = args.c_out;
    step.n_in = args.n_out;
    step.m_in = args.m_out;
  }
  return cudaSuccess;
}

// `launched` false, here and below: the kernel does not fit these sizes or this device, and nothing was enqueued.
template <typename T, typename RecurrentT>
cudaError_t launch_clusters(const SlstmArgs& args, const DeviceLimits& limits, bool& launched, cudaStream_t stream) {
  using Shape = SlstmCluster<T, RecurrentT>;
  constexpr auto kKernel = slstm_cluster_kernel<T, RecurrentT>;
  constexpr int kMaxWaves = 6;     // beyond, a position of all rows is quicker in a launch of its own
  constexpr int kMaxGrid = 65535;  // along y and z
  const int64_t groups = ceil_div<int64_t>(args.batch, Shape::kRows);
  if (args.dim > Shape::kSlabs * kSlstmSlab || args.heads > kMaxGrid || groups > kMaxGrid) return cudaSuccess;
  int architecture = 0;
  cudaError_t status = query_architecture<kKernel>(limits.device, architecture);
  if (status != cudaSuccess || !limits.clusters || architecture < 90) return status;
  // Beyond eight blocks the device decides, and says so below.
  status = cudaFuncSetAttribute(kKernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (status != cudaSuccess) return status;

  const auto blocks = static_cast<unsigned>(Shape::blocks(args.dim));
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {blocks, 1, 1};
  const dim3 grid(blocks, static_cast<unsigned>(args.heads), static_cast<unsigned>(groups));
  cudaLaunchConfig_t config = make_config(grid, kSlstmThreads, Shape::shared_bytes(args.dim), stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  int resident = 0;
  status = cudaOccupancyMaxActiveClusters(&resident, kKernel, &config);
  if (status == cudaErrorInvalidClusterSize) return cudaSuccess;
  if (status != cudaSuccess || args.heads * groups > int64_t{resident} * kMaxWaves) return status;
  status = cudaLaunchKernelEx(&config, kKernel, args);
  launched = status == cudaSuccess;
  return status;
}

// The units of a block of the sequence kernel: as few as give every multiprocessor one block at most, in whole turns of
// the warps. 0 where R does not fit, or the pointwise part has more elements than threads.
template <typename RecurrentT, int kRows>
int choose_units(const SlstmArgs& args, const DeviceLimits& limits) {
  for (int units = kSlstmUnits; units * kRows <= kSlstmThreads; units += kSlstmUnits) {
    if (SliceLayout<RecurrentT, kRows>::bytes(args.dim, units) > limits.shared_bytes) return 0;
    if (args.heads * ceil_div<int64_t>(args.dim, units) <= limits.multiprocessors) return units;
  }
  return 0;
}

template <typename T, typename RecurrentT, int kRows>
cudaError_t launch_cooperative(const SlstmArgs& args, void* workspace, const DeviceLimits& limits, bool& launched,
                               cudaStream_t stream) {
  if (!limits.cooperative) return cudaSuccess;
  const int units = choose_units<RecurrentT, kRows>(args, limits);
  if (units == 0 || args.batch > kRows) return cudaSuccess;  // more rows are work enough for a launch of its own
  const size_t shared_bytes = static_cast<size_t>(SliceLayout<RecurrentT, kRows>::bytes(args.dim, units));
  const int64_t blocks = args.heads * ceil_div<int64_t>(args.dim, units);

  constexpr auto kKernel = slstm_sequence_kernel<T, RecurrentT, kRows>;
  cudaError_t status = allow_shared_memory<kKernel>(limits);
  if (status != cudaSuccess) return status;
  int resident = 0;
  status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kKernel, kSlstmThreads, shared_bytes);
  if (status != cudaSuccess || blocks > int64_t{resident} * limits.multiprocessors) return status;

  status = cudaMemsetAsync(workspace, 0, slstm_workspace_size(args.batch, args.heads, args.dim), stream);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config = make_config(static_cast<unsigned>(blocks), kSlstmThreads, shared_bytes, stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  status = cudaLaunchKernelEx(&config, kKernel, args, units, static_cast<Message*>(workspace));
  launched = status == cudaSuccess;
  // A green context, or a limit on the threads of a process that shares the GPU, may give fewer multiprocessors than
  // the device has. Nothing ran then.
  return status == cudaErrorCooperativeLaunchTooLarge ? cudaSuccess : status;
}

template <typename T, typename RecurrentT>
cudaError_t launch_sequence(const SlstmArgs& args, void* workspace, bool& launched, cudaStream_t stream) {
  DeviceLimits limits;
  cudaError_t status = query_limits(limits);
  if (status == cudaSuccess) status = launch_clusters<T, RecurrentT>(args, limits, launched, stream);
  if (status != cudaSuccess || launched) return status;
  if (args.batch == 1) return launch_cooperative<T, RecurrentT, 1>(args, workspace, limits, launched, stream);
  return launch_cooperative<T, RecurrentT, 8>(args, workspace, limits, launched, stream);
}

template <typename T>
cudaError_t launch_sequence(const SlstmArgs& args, void* workspace, bool& launched, cudaStream_t stream) {
  if (args.recurrent_type == args.type) return launch_sequence<T, T>(args, workspace, launched, stream);
  return launch_sequence<T, float>(args, workspace, launched, stream);
}

}  // namespace

cudaError_t launch_slstm(const SlstmArgs& args, void* workspace, cudaStream_t stream) {
  if (args.batch == 0 || args.heads == 0 || args.dim == 0 || args.sequence == 0) return cudaSuccess;
  if (!valid(args)) return cudaErrorInvalidValue;
  if (workspace == nullptr && (args.sequence > 1 || args.y_in == args.y_out)) return cudaErrorInvalidValue;
  if (args.sequence > 1) {
    bool launched = false;
    cudaError_t status = cudaErrorInvalidValue;
    dispatch_type(args.type, [&](auto example) {
      status = launch_sequence<decltype(example)>(args, workspace, launched, stream);
    });
    if (status != cudaSuccess || launched) return status;
  }
  return launch_positions(args, static_cast<float*>(workspace), stream);
}

}  // namespace xlstm::cuda
