// What stands around the cells, on a CPU; see cpu_cells.h for what is common to both, and layers.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cells/cpu/cpu_cells.h"
#include "cells/cpu/linear.h"
#include "cells/layers.h"

namespace xlstm::cpu {

// Any extents but a kernel or a width of 0, any finite input; the window in place or not. Repeated calls give the same
// bits, whatever `parallel_for` does, and each position what it gets alone.
void causal_conv(const CausalConvArgs& args, const ParallelFor& parallel_for);
// Both kinds of projections throw std::bad_alloc, for a scratch buffer where positions are many.
void mlstm_projections(const MlstmProjectionsArgs& args, const ParallelFor& parallel_for);
// `packed`: what the first makes of the weights; the second reads no others. The first throws std::bad_alloc, too.
PackedLinear pack_slstm_projections(const SlstmProjectionsArgs& args);
void slstm_projections(const SlstmProjectionsArgs& args, const PackedLinear& packed, const ParallelFor& parallel_for);
void mlstm_heads(const MlstmHeadsArgs& args, const ParallelFor& parallel_for);
void head_norm(const HeadNormArgs& args, const ParallelFor& parallel_for);
void add_norm(const AddNormArgs& args, const ParallelFor& parallel_for);
void gated_linear_unit(const GatedLinearUnitArgs& args, const ParallelFor& parallel_for);
void soft_cap(const SoftCapArgs& args, const ParallelFor& parallel_for);
void valid_tokens(const ValidTokensArgs& args);
void last_positions(const LastPositionsArgs& args);

// Positions of row b that are there.
inline int64_t row_length(const int32_t* lengths, int64_t b, int64_t sequence) {
  return lengths == nullptr ? sequence : std::clamp<int64_t>(lengths[b], 0, sequence);
}

}  // namespace xlstm::cpu
