// The residual stream with what is added to it, and its norm, on a CPU. One task is one position.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/add_norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "cells/cpu/cpu_layers.h"
#include "cells/cpu/lanes-inl.h"
#include "cells/cpu/norm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void normalise(const AddNormArgs& a, int64_t row) {
  const float* const x = a.x + row * a.dim;
  const T* const y = static_cast<const T*>(a.y) + row * a.dim;
  float *const next = a.x_next + row * a.dim, *const normal = a.normal + row * a.dim;
  for_lanes(a.dim,
            [&](auto d, int64_t j) HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, x + j), load(d, y + j)), d, next + j); });
  const Norm norm = norm_of(a.dim, next, a.centred, a.eps);
  for_lanes(a.dim, [&](auto d, int64_t j) HWY_ATTR {
    hn::StoreU(hn::Mul(norm(d, hn::LoadU(d, next + j)), hn::LoadU(d, a.weight + j)), d, normal + j);
  });
}

}  // namespace

void add_norm_rows(const AddNormArgs& args, const ParallelFor& parallel_for) {
  dispatch_type(args.type, [&](auto zero) HWY_ATTR {
    using T = decltype(zero);
    parallel_for(args.positions, 5 * args.dim * static_cast<int64_t>(sizeof(float)),
                 [&](int64_t row) HWY_ATTR { normalise<T>(args, row); });
  });
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace xlstm::cpu {

void add_norm(const AddNormArgs& args, const ParallelFor& parallel_for) {
  static constexpr Variant<void(const AddNormArgs&, const ParallelFor&)> variants[] = XLSTM_VARIANTS(add_norm_rows);
  choose(variants)(args, parallel_for);
}

}  // namespace xlstm::cpu
#endif
