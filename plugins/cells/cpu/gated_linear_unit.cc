// A gated linear unit on a CPU: an activation of one half times the other. One task is some columns of one position.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/gated_linear_unit.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include <algorithm>

#include "cells/cpu/activations-inl.h"
#include "cells/cpu/cpu_layers.h"
#include "cells/cpu/lanes-inl.h"
#include "cells/cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kColumns = 64 * kLine;

template <class T>
void multiply(const GatedLinearUnitArgs& a, int64_t row, int64_t begin, int64_t count) {
  const T* const gate = static_cast<const T*>(a.x) + 2 * row * a.dim + begin;
  const T* const up = gate + a.dim;
  T* const y = static_cast<T*>(a.y) + row * a.dim + begin;
  const auto with = [&](auto active) HWY_ATTR {
    for_lanes(count, [&](auto d, int64_t j)
                         HWY_ATTR { store(d, hn::Mul(active(d, load(d, gate + j)), load(d, up + j)), y + j); });
  };
  if (a.gelu) {
    with([](auto d, auto x) HWY_ATTR { return gelu(d, x); });
  } else {
    with([](auto d, auto x) HWY_ATTR { return silu(d, x); });
  }
}

}  // namespace

void gated_linear_unit_rows(const GatedLinearUnitArgs& args, const ParallelFor& parallel_for) {
  const int64_t splits = (args.dim + kColumns - 1) / kColumns;
  constexpr int64_t kCost = 8;  // of an activation: as of reading so many bytes
  dispatch_type(args.type, [&](auto zero) HWY_ATTR {
    using T = decltype(zero);
    parallel_for(args.positions * splits, kCost * kColumns, [&](int64_t task) HWY_ATTR {
      const int64_t begin = task % splits * kColumns;
      multiply<T>(args, task / splits, begin, std::min(kColumns, args.dim - begin));
    });
  });
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace xlstm::cpu {

void gated_linear_unit(const GatedLinearUnitArgs& args, const ParallelFor& parallel_for) {
  static constexpr Variant<void(const GatedLinearUnitArgs&, const ParallelFor&)> variants[] =
      XLSTM_VARIANTS(gated_linear_unit_rows);
  choose(variants)(args, parallel_for);
}

}  // namespace xlstm::cpu
#endif
