#include "cells/cuda/device_limits.h"
#include "cells/cuda/launch.h"
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
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kSlstmThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, slstm_step_kernel<T, RecurrentT, kVector, kRows>, args, y_prev, y_next, position);
}

// 16 bytes of R at a time where the sizes and the pointers allow it.
template <typename T, typename RecurrentT>
cudaError_t launch_position(const SlstmArgs& args, const float* y_prev, float* y_next, int64_t position,
                            cudaStream_t stream) {
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

// `launched` false: the sequence kernel does not fit these sizes or this device, and nothing was enqueued.
template <typename T, typename RecurrentT, int kRows>
cudaError_t launch_sequence(const SlstmArgs& args, float* exchange, bool& launched, cudaStream_t stream) {
  DeviceLimits limits;
  cudaError_t status = query_limits(limits);
  if (status != cudaSuccess || !limits.cooperative) return status;
  const int units = choose_units<RecurrentT, kRows>(args, limits);
  if (units == 0 || args.batch > INT32_MAX - kRows) return cudaSuccess;
  const size_t shared_bytes = static_cast<size_t>(SliceLayout<RecurrentT, kRows>::bytes(args.dim, units));
  const int64_t blocks = args.heads * ceil_div<int64_t>(args.dim, units);

  constexpr auto kKernel = slstm_sequence_kernel<T, RecurrentT, kRows>;
  status = allow_shared_memory<kKernel>(limits);
  if (status != cudaSuccess) return status;
  int resident = 0;
  status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kKernel, kSlstmThreads, shared_bytes);
  if (status != cudaSuccess || blocks > int64_t{resident} * limits.multiprocessors) return status;

  unsigned* const arrivals = reinterpret_cast<unsigned*>(exchange + 2 * args.batch * args.heads * args.dim);
  status = cudaMemsetAsync(arrivals, 0, sizeof(unsigned) * static_cast<size_t>(args.heads), stream);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kSlstmThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  status = cudaLaunchKernelEx(&config, kKernel, args, units, exchange, arrivals);
  launched = status == cudaSuccess;
  // A green context, or a limit on the threads of a process that shares the GPU, may give fewer multiprocessors than
  // the device has. Nothing ran then.
  return status == cudaErrorCooperativeLaunchTooLarge ? cudaSuccess : status;
}

template <typename T>
cudaError_t launch_sequence(const SlstmArgs& args, float* exchange, bool& launched, cudaStream_t stream) {
  if (args.recurrent_type == args.type) {
    if (args.batch == 1) return launch_sequence<T, T, 1>(args, exchange, launched, stream);
    return launch_sequence<T, T, 8>(args, exchange, launched, stream);
  }
  if (args.batch == 1) return launch_sequence<T, float, 1>(args, exchange, launched, stream);
  return launch_sequence<T, float, 8>(args, exchange, launched, stream);
}

}  // namespace

cudaError_t launch_slstm(const SlstmArgs& args, void* workspace, cudaStream_t stream) {
  if (args.batch == 0 || args.heads == 0 || args.dim == 0 || args.sequence == 0) return cudaSuccess;
  if (!valid(args)) return cudaErrorInvalidValue;
  float* const scratch = static_cast<float*>(workspace);
  if (scratch == nullptr && (args.sequence > 1 || args.y_in == args.y_out)) return cudaErrorInvalidValue;
  if (args.sequence > 1) {
    bool launched = false;
    cudaError_t status = cudaErrorInvalidValue;
    dispatch_type(args.type,
                  [&](auto example) { status = launch_sequence<decltype(example)>(args, scratch, launched, stream); });
    if (status != cudaSuccess || launched) return status;
  }
  return launch_positions(args, scratch, stream);
}

}  // namespace xlstm::cuda
