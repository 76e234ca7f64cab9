// The two cells on a CPU. Knows nothing of any framework: whoever calls brings its thread pool as a ParallelFor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "cells/cells.h"

namespace xlstm::cpu {

// How a cell runs its tasks: run(pool, tasks, task, context) calls task(context, 0) ... task(context, tasks - 1), in
// any order, possibly at once, and returns when all are done. `threads` is how many can run at once: it sizes the
// tasks; results never depend on it. The default runs everything in the calling thread.
struct ParallelFor {
  using Task = void (*)(void* context, int64_t index);

  int64_t threads = 1;
  // Less than this is not worth handing to another thread: some microseconds' worth of memory traffic.
  int64_t grain_bytes = 128 << 10;
  void (*run)(void* pool, int64_t tasks, Task task, void* context) = [](void*, int64_t tasks, Task task,
                                                                        void* context) {
    for (int64_t index = 0; index < tasks; ++index) task(context, index);
  };
  void* pool = nullptr;

  // function(0) ... function(tasks - 1), each of which moves about `bytes_each`.
  template <class Function>
  void operator()(int64_t tasks, int64_t bytes_each, const Function& function) const {
    struct Grains {
      const Function& function;
      int64_t tasks, size;
    } grains{function, tasks, std::max<int64_t>(1, grain_bytes / std::max<int64_t>(1, bytes_each))};
    const auto grain = [](void* context, int64_t index) {
      const Grains& grains = *static_cast<const Grains*>(context);
      const int64_t end = std::min((index + 1) * grains.size, grains.tasks);
      for (int64_t task = index * grains.size; task < end; ++task) grains.function(task);
    };
    const int64_t count = (tasks + grains.size - 1) / grains.size;
    if (count == 1) return grain(&grains, 0);
    run(pool, count, grain, &grains);
  }
};

// Any extents (batch and sequence may be 0), any finite input, states in place or out of place; see cells.h. Repeated
// calls give the same bits, whatever `parallel_for` does. One position takes the step kernel; more take the sequence
// kernels, whose results differ from single steps by float32 rounding. They throw only std::bad_alloc, for a scratch
// buffer: over sequences some megabytes for each thread in the mLSTM, a copy of R in the sLSTM.
void mlstm(const MlstmArgs& args, const ParallelFor& parallel_for);
void slstm(const SlstmArgs& args, const ParallelFor& parallel_for);

// Instruction sets this library was compiled for and this processor has, best first: "AVX-512", "AVX2", "SSE4", "NEON",
// "baseline" (what the compiler may assume everywhere). The first one is used.
std::vector<std::string> instruction_sets();

// For tests: every later call uses this instruction set; "" chooses the best again. False, and no change, when it is
// not among instruction_sets().
bool force_instruction_set(const std::string& name);

}  // namespace xlstm::cpu
