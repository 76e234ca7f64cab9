// What Highway compiles the kernels for. Include it before hwy/foreach_target.h and before hwy/highway.h.
//
// On x86: AVX-512, AVX2, SSE4 and what the compiler may assume everywhere; the targets left out would only add to the
// library's size: they multiply and add float32 at the same rate. On ARM: NEON, which every 64-bit processor has.
// Elsewhere: whatever the compiler's flags allow, plain C++ at least.
#pragma once

#if defined(__x86_64__) || defined(__i386__)
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | (HWY_AVX3 - 1))  // lower bits: the extensions of AVX-512
#else
#define HWY_COMPILE_ONLY_STATIC
#endif

#include "hwy/detect_targets.h"

#include "cells/cpu/instruction_sets.h"

#if HWY_TARGETS & HWY_AVX3
#define XLSTM_AVX512_VARIANT(function) {InstructionSet::kAvx512, N_AVX3::function},
#else
#define XLSTM_AVX512_VARIANT(function)
#endif
#if HWY_TARGETS & HWY_AVX2
#define XLSTM_AVX2_VARIANT(function) {InstructionSet::kAvx2, N_AVX2::function},
#else
#define XLSTM_AVX2_VARIANT(function)
#endif
#if HWY_TARGETS & HWY_SSE4
#define XLSTM_SSE4_VARIANT(function) {InstructionSet::kSse4, N_SSE4::function},
#else
#define XLSTM_SSE4_VARIANT(function)
#endif

// The table that choose() takes, for a function defined in each HWY_NAMESPACE. Use it where HWY_ONCE holds: there
// HWY_NAMESPACE is that of the static target.
#define XLSTM_VARIANTS(function)                                                               \
  {                                                                                            \
    XLSTM_AVX512_VARIANT(function) XLSTM_AVX2_VARIANT(function) XLSTM_SSE4_VARIANT(function) { \
      InstructionSet::kBaseline, HWY_NAMESPACE::function                                       \
    }                                                                                          \
  }
