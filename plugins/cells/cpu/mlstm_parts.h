// What the step and the sequence kernel of the mLSTM share. Internal to the CPU kernels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cells/cpu/cpu_cells.h"

namespace xlstm::cpu {

// Offset of head `head` = b * H + h at position t in a tensor (B, S, H, width).
inline int64_t activation_offset(const MlstmArgs& a, int64_t head, int64_t t, int64_t width) {
  const int64_t b = head / a.heads, h = head % a.heads;
  return ((b * a.sequence + t) * a.heads + h) * width;
}

inline int64_t row_length(const MlstmArgs& a, int64_t head) {
  if (a.lengths == nullptr) return a.sequence;
  return std::clamp<int64_t>(a.lengths[head / a.heads], 0, a.sequence);
}

// More than one position; mlstm() chooses by the sequence.
void mlstm_chunkwise(const MlstmArgs& args, const ParallelFor& parallel_for);

}  // namespace xlstm::cpu
