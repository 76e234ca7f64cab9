#include "cells/cpu/instruction_sets.h"

#include <atomic>

#include "cells/cpu/cpu_cells.h"
#include "cells/cpu/targets.h"

namespace xlstm::cpu {
namespace {

struct Compiled {
  InstructionSet instruction_set;
  const char* name;
};

// Best first.
constexpr Compiled kCompiled[] = {
#if HWY_TARGETS & HWY_AVX3
    {InstructionSet::kAvx512, "AVX-512"},
#endif
#if HWY_TARGETS & HWY_AVX2
    {InstructionSet::kAvx2, "AVX2"},
#endif
#if HWY_TARGETS & HWY_SSE4
    {InstructionSet::kSse4, "SSE4"},
#endif
#if defined(__ARM_NEON)
    {InstructionSet::kBaseline, "NEON"},
#else
    {InstructionSet::kBaseline, "baseline"},
#endif
};

// What Highway lets the compiler use for each target (hwy/ops/set_macros-inl.h).
bool processor_has(InstructionSet instruction_set) {
#if defined(__x86_64__) || defined(__i386__)
  const bool sse4 =
      __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("sse4.2");
  const bool avx2 = sse4 && __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  switch (instruction_set) {
    case InstructionSet::kAvx512:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw");
    case InstructionSet::kAvx2:
      return avx2;
    case InstructionSet::kSse4:
      return sse4;
    case InstructionSet::kBaseline:
      return true;
  }
#endif
  return instruction_set == InstructionSet::kBaseline;
}

constexpr int kNotForced = -1;
std::atomic<int> forced{kNotForced};

}  // namespace

bool is_enabled(InstructionSet instruction_set) {
  const int wanted = forced.load(std::memory_order_relaxed);
  if (wanted != kNotForced) return static_cast<int>(instruction_set) == wanted;
  static const bool has[] = {processor_has(InstructionSet::kAvx512), processor_has(InstructionSet::kAvx2),
                             processor_has(InstructionSet::kSse4), true};
  return has[static_cast<int>(instruction_set)];
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Compiled& compiled : kCompiled) {
    if (processor_has(compiled.instruction_set)) names.emplace_back(compiled.name);
  }
  return names;
}

bool force_instruction_set(const std::string& name) {
  if (name.empty()) {
    forced = kNotForced;
    return true;
  }
  for (const Compiled& compiled : kCompiled) {
    if (name == compiled.name && processor_has(compiled.instruction_set)) {
      forced = static_cast<int>(compiled.instruction_set);
      return true;
    }
  }
  return false;
}

}  // namespace xlstm::cpu
