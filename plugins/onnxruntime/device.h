// Where a cell runs: the kernels of one ONNX Runtime execution provider.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <memory>

#include "cells/cells.h"
#include "cells/cpu/cpu_cells.h"
#include "cells/cpu/linear.h"
#include "cells/layers.h"

namespace xlstm::ort {

struct Device {
  const char* execution_provider;
  // Run the cell as part of `context`'s node: on its thread pool, or enqueued on its stream. Throw on failure.
  void (*mlstm)(const MlstmArgs& args, OrtKernelContext* context);
  void (*slstm)(const SlstmArgs& args, OrtKernelContext* context);
  // Null where a device has none.
  void (*causal_conv)(const CausalConvArgs& args, OrtKernelContext* context) = nullptr;
  void (*mlstm_projections)(const MlstmProjectionsArgs& args, OrtKernelContext* context) = nullptr;
  std::shared_ptr<const cpu::PackedLinear> (*pack_slstm_projections)(const SlstmProjectionsArgs& args) = nullptr;
  void (*slstm_projections)(const SlstmProjectionsArgs& args, const cpu::PackedLinear& packed,
                            OrtKernelContext* context) = nullptr;
  void (*mlstm_heads)(const MlstmHeadsArgs& args, OrtKernelContext* context) = nullptr;
  void (*head_norm)(const HeadNormArgs& args, OrtKernelContext* context) = nullptr;
  void (*add_norm)(const AddNormArgs& args, OrtKernelContext* context) = nullptr;
  void (*gated_linear_unit)(const GatedLinearUnitArgs& args, OrtKernelContext* context) = nullptr;
  void (*soft_cap)(const SoftCapArgs& args, OrtKernelContext* context) = nullptr;
  void (*valid_tokens)(const ValidTokensArgs& args) = nullptr;
  void (*last_positions)(const LastPositionsArgs& args) = nullptr;
  // Whether a constant input, when a kernel is made, lies where it will lie when it runs.
  bool constants_first = false;
};

// For kernels on a CPU: the pool of the session that `context` is of.
cpu::ParallelFor thread_pool(OrtKernelContext* context);

extern const Device kCpu;
#if defined(XLSTM_HAS_CUDA)
extern const Device kCuda;
#endif

}  // namespace xlstm::ort
