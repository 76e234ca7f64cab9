// The norm over each head, the skip connection and the output gate on a CPU. One task is one head at one position.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/head_norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "cells/cpu/activations-inl.h"
#include "cells/cpu/cpu_layers.h"
#include "cells/cpu/lanes-inl.h"
#include "cells/cpu/norm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

// Head `row % heads` of position `row / heads`.
template <class T>
void normalise(const HeadNormArgs& a, int64_t row) {
  const T* h = static_cast<const T*>(a.h) + row * a.dim;
  const int64_t at = row * a.dim, head = row % a.heads * a.dim;
  const float* const gates = a.gate ? a.gate + (row / a.heads + 1) * a.gate_width - a.heads * a.dim + head : nullptr;
  const Norm norm = norm_of(a.dim, h, true, a.eps);
  for_lanes(a.dim, [&](auto d, int64_t j) HWY_ATTR {
    const auto weighted = hn::Mul(norm(d, load(d, h + j)), hn::LoadU(d, a.weight + head + j));
    if (gates == nullptr) return hn::StoreU(weighted, d, a.y + at + j);
    const auto gate = hn::LoadU(d, gates + j);
    if (a.skip == nullptr) {
      hn::StoreU(hn::Mul(sigmoid(d, gate), weighted), d, a.y + at + j);
    } else {
      const auto sum = hn::MulAdd(hn::LoadU(d, a.skip + head + j), hn::LoadU(d, a.x + at + j), weighted);
      hn::StoreU(hn::Mul(sum, silu(d, gate)), d, a.y + at + j);
    }
  });
}

}  // namespace

void head_norm_rows(const HeadNormArgs& args, const ParallelFor& parallel_for) {
  dispatch_type(args.type, [&](auto zero) HWY_ATTR {
    using T = decltype(zero);
    parallel_for(args.positions * args.heads, 5 * args.dim * static_cast<int64_t>(sizeof(float)),
                 [&](int64_t row) HWY_ATTR { normalise<T>(args, row); });
  });
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace xlstm::cpu {

void head_norm(const HeadNormArgs& args, const ParallelFor& parallel_for) {
  static constexpr Variant<void(const HeadNormArgs&, const ParallelFor&)> variants[] = XLSTM_VARIANTS(head_norm_rows);
  choose(variants)(args, parallel_for);
}

}  // namespace xlstm::cpu
#endif
