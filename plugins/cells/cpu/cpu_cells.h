// The two cells on a CPU. Knows nothing of any framework: whoever calls brings its thread pool as a ParallelFor.
#pragma once

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
  void (*run)(void* pool, int64_t tasks, Task task, void* context) =
      [](void*, int64_t tasks, Task task, void* context) {
        for (int64_t index = 0; index < tasks; ++index) task(context, index);
      };
  void* pool = nullptr;

  template <class Function>
  void operator()(int64_t tasks, const Function& function) const {
    const auto task = [](void* context, int64_t index) { (*static_cast<const Function*>(context))(index); };
    if (tasks == 1) return function(0);
    run(pool, tasks, task, const_cast<Function*>(&function));
  }
};

// Any extents (batch and sequence may be 0), any finite input, states in place or out of place; see cells.h. Repeated
// calls give the same bits, whatever `parallel_for` does. They throw only std::bad_alloc, for a small scratch buffer.
void mlstm(const MlstmArgs& args, const ParallelFor& parallel_for);
void slstm(const SlstmArgs& args, const ParallelFor& parallel_for);

// Instruction sets this library was compiled for and this processor has, best first: "AVX-512", "AVX2", "SSE4", "NEON",
// "baseline" (what the compiler may assume everywhere). The first one is used.
std::vector<std::string> instruction_sets();

// For tests: every later call uses this instruction set; "" chooses the best again. False, and no change, when it is
// not among instruction_sets().
bool force_instruction_set(const std::string& name);

}  // namespace xlstm::cpu
