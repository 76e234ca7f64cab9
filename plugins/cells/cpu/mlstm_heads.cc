// The inputs of an mLSTM cell, side by side in two products, each by itself, on a CPU. One task is one position.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/mlstm_heads.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include <cstring>

#include "cells/cpu/cpu_layers.h"
#include "cells/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

// The next `count` elements of `from` as row `row` of `to`.
template <class T>
void take(const T*& from, int64_t count, int64_t row, void* to) {
  std::memcpy(static_cast<T*>(to) + row * count, from, static_cast<size_t>(count) * sizeof(T));
  from += count;
}

template <class T>
void separate(const MlstmHeadsArgs& a, int64_t row) {
  const int64_t qk = a.heads * a.dim_qk, inner = a.heads * a.dim_v;
  const T* x = static_cast<const T*>(a.x) + 2 * row * (qk + inner);
  const T* gates = static_cast<const T*>(a.gates) + 2 * row * a.heads;
  take(x, qk, row, a.q);
  take(x, qk, row, a.k);
  take(x, inner, row, a.v);
  take(gates, a.heads, row, a.i);
  take(gates, a.heads, row, a.f);
  for_lanes(inner, [&](auto d, int64_t j) HWY_ATTR { hn::StoreU(load(d, x + j), d, a.o + row * inner + j); });
}

}  // namespace

void mlstm_heads_rows(const MlstmHeadsArgs& args, const ParallelFor& parallel_for) {
  const int64_t bytes = 4 * args.heads * (args.dim_qk + args.dim_v) * element_size(args.type);
  dispatch_type(args.type, [&](auto zero) HWY_ATTR {
    using T = decltype(zero);
    parallel_for(args.positions, bytes, [&](int64_t row) HWY_ATTR { separate<T>(args, row); });
  });
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace xlstm::cpu {

void mlstm_heads(const MlstmHeadsArgs& args, const ParallelFor& parallel_for) {
  static constexpr Variant<void(const MlstmHeadsArgs&, const ParallelFor&)> variants[] =
      XLSTM_VARIANTS(mlstm_heads_rows);
  choose(variants)(args, parallel_for);
}

}  // namespace xlstm::cpu
#endif
