// The causal convolution on a CPU, and SiLU. One task is some columns of one row of the batch, at all its positions:
// columns are independent of each other.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/causal_conv.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include <algorithm>
#include <cstring>

#include "cells/cpu/activations-inl.h"
#include "cells/cpu/cpu_layers.h"
#include "cells/cpu/lanes-inl.h"
#include "cells/cpu/prefetch.h"
#include "cells/cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kColumns = 16 * kLine;

// Columns [begin, begin + count) of row b.
void convolve(const CausalConvArgs& a, int64_t b, int64_t begin, int64_t count) {
  const int64_t length = row_length(a.lengths, b, a.sequence), before = a.kernel - 1;
  const float* x = a.x + b * a.sequence * a.x_width + begin;
  const float* window = a.window_in + b * before * a.dim + begin;
  float* y = a.y + b * a.sequence * a.dim + begin;
  float* next = a.window_out + b * before * a.dim + begin;
  // What stands `index` positions after the window's oldest.
  const auto column = [&](int64_t index) {
    return index < before ? window + index * a.dim : x + (index - before) * a.x_width;
  };
  const int64_t column_bytes = count * static_cast<int64_t>(sizeof(float));
  for (int64_t row = 0; row < before; ++row) prefetch_all(window + row * a.dim, column_bytes);
  for (int64_t tap = 0; tap < a.kernel; ++tap) prefetch_all(a.weight + tap * a.dim + begin, column_bytes);
  prefetch_all(a.bias + begin, column_bytes);
  for (int64_t t = 0; t < length; ++t) {
    for_lanes(count, [&](auto d, int64_t c) HWY_ATTR {
      auto sum = hn::Mul(hn::LoadU(d, column(t) + c), hn::LoadU(d, a.weight + begin + c));
      for (int64_t tap = 1; tap < a.kernel; ++tap) {
        sum = hn::MulAdd(hn::LoadU(d, column(t + tap) + c), hn::LoadU(d, a.weight + tap * a.dim + begin + c), sum);
      }
      hn::StoreU(silu(d, hn::Add(sum, hn::LoadU(d, a.bias + begin + c))), d, y + t * a.dim + c);
    });
  }
  const auto bytes = static_cast<size_t>(column_bytes);
  for (int64_t t = length; t < a.sequence; ++t) std::memset(y + t * a.dim, 0, bytes);
  // Upwards: in place, each is written after it was read.
  for (int64_t index = 0; index < before; ++index) std::memmove(next + index * a.dim, column(length + index), bytes);
}

}  // namespace

void causal_conv_columns(const CausalConvArgs& args, const ParallelFor& parallel_for) {
  const int64_t splits = (args.dim + kColumns - 1) / kColumns;
  const int64_t bytes_each = (args.sequence + args.kernel) * kColumns * 4 * static_cast<int64_t>(sizeof(float));
  parallel_for(args.batch * splits, bytes_each, [&](int64_t task) HWY_ATTR {
    const int64_t begin = task % splits * kColumns;
    convolve(args, task / splits, begin, std::min(kColumns, args.dim - begin));
  });
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace xlstm::cpu {

void causal_conv(const CausalConvArgs& args, const ParallelFor& parallel_for) {
  static constexpr Variant<void(const CausalConvArgs&, const ParallelFor&)> variants[] =
      XLSTM_VARIANTS(causal_conv_columns);
  choose(variants)(args, parallel_for);
}

}  // namespace xlstm::cpu
#endif
