// What the step and the sequence kernel of the sLSTM share. Internal to the CPU kernels.
#pragma once

#include <cstdint>

#include "cells/cpu/cpu_cells.h"

namespace xlstm::cpu {

constexpr int64_t kGates = 4;  // i, f, z, o

// More than one position; slstm() chooses by the sequence.
void slstm_sequence(const SlstmArgs& args, const ParallelFor& parallel_for);

}  // namespace xlstm::cpu
