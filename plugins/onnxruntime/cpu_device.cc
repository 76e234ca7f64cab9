// The CPU kernels on ONNX Runtime's own thread pool.
#include <sched.h>

#include "cells/cpu/cpu_layers.h"
#include "onnxruntime/device.h"

namespace xlstm::ort {
namespace {

// ONNX Runtime does not tell the size of its pool; it has at most one thread for each processor this process may use.
int64_t processors() {
  static const int64_t count = [] {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  }();
  return count;
}

struct Call {
  cpu::ParallelFor::Task task;
  void* context;
};

}  // namespace

cpu::ParallelFor thread_pool(OrtKernelContext* context) {
  cpu::ParallelFor parallel_for;
  parallel_for.threads = processors();
  parallel_for.pool = context;
  parallel_for.run = [](void* pool, int64_t tasks, cpu::ParallelFor::Task task, void* task_context) {
    Call call{task, task_context};
    const auto run_one = [](void* data, size_t index) {
      const Call& call = *static_cast<Call*>(data);
      call.task(call.context, static_cast<int64_t>(index));
    };
    // As many batches as tasks: whichever thread is free takes the next one.
    const auto count = static_cast<size_t>(tasks);
    Ort::ThrowOnError(
        Ort::GetApi().KernelContext_ParallelFor(static_cast<OrtKernelContext*>(pool), run_one, count, count, &call));
  };
  return parallel_for;
}

const Device kCpu{
    "CPUExecutionProvider",
    [](const MlstmArgs& args, OrtKernelContext* context) { cpu::mlstm(args, thread_pool(context)); },
    [](const SlstmArgs& args, OrtKernelContext* context) { cpu::slstm(args, thread_pool(context)); },
    [](const CausalConvArgs& args, OrtKernelContext* context) { cpu::causal_conv(args, thread_pool(context)); },
    [](const MlstmProjectionsArgs& args, OrtKernelContext* context) {
      cpu::mlstm_projections(args, thread_pool(context));
    },
    [](const SlstmProjectionsArgs& args) -> std::shared_ptr<const cpu::PackedLinear> {
      return std::make_shared<cpu::PackedLinear>(cpu::pack_slstm_projections(args));
    },
    [](const SlstmProjectionsArgs& args, const cpu::PackedLinear& packed, OrtKernelContext* context) {
      cpu::slstm_projections(args, packed, thread_pool(context));
    },
    [](const MlstmHeadsArgs& args, OrtKernelContext* context) { cpu::mlstm_heads(args, thread_pool(context)); },
    [](const HeadNormArgs& args, OrtKernelContext* context) { cpu::head_norm(args, thread_pool(context)); },
    [](const AddNormArgs& args, OrtKernelContext* context) { cpu::add_norm(args, thread_pool(context)); },
    [](const GatedLinearUnitArgs& args, OrtKernelContext* context) {
      cpu::gated_linear_unit(args, thread_pool(context));
    },
    [](const SoftCapArgs& args, OrtKernelContext* context) { cpu::soft_cap(args, thread_pool(context)); },
    cpu::valid_tokens,
    cpu::last_positions,
    true,
};

}  // namespace xlstm::ort
