// Which of the compiled instruction sets a call runs on. Internal to the CPU kernels.
#pragma once

#include <cstddef>

namespace xlstm::cpu {

enum class InstructionSet { kAvx512, kAvx2, kSse4, kBaseline };

// One kernel, compiled for one instruction set.
template <class Function>
struct Variant {
  InstructionSet instruction_set;
  Function* function;
};

// Whether the processor has it, and no test has forced another one. The baseline is always enabled.
bool is_enabled(InstructionSet instruction_set);

// `variants` is in order of preference and ends with the baseline.
template <class Function, size_t count>
Function* choose(const Variant<Function> (&variants)[count]) {
  size_t index = 0;
  while (index + 1 < count && !is_enabled(variants[index].instruction_set)) ++index;
  return variants[index].function;
}

}  // namespace xlstm::cpu
