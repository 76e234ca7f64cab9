// Padding on a CPU: copies, which need no instruction set of their own.
#include <algorithm>

#include "cells/cpu/cpu_layers.h"

namespace xlstm::cpu {

void valid_tokens(const ValidTokensArgs& args) {
  for (int64_t b = 0; b < args.batch; ++b) {
    const int64_t *const from = args.tokens + b * args.sequence, length = row_length(args.lengths, b, args.sequence);
    int64_t* const to = args.y + b * args.sequence;
    std::fill(std::copy_n(from, length, to), to + args.sequence, 0);
  }
}

void last_positions(const LastPositionsArgs& args) {
  for (int64_t b = 0; b < args.batch; ++b) {
    const int64_t last = std::max<int64_t>(row_length(args.lengths, b, args.sequence) - 1, 0);
    std::copy_n(args.x + (b * args.sequence + last) * args.dim, args.dim, args.y + b * args.dim);
  }
}

}  // namespace xlstm::cpu
