// Logits bounded softly, on a CPU. One task is some of them.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/soft_cap.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include <algorithm>

#include "cells/cpu/cpu_layers.h"
#include "cells/cpu/lanes-inl.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kTask = 1024;

}  // namespace

void soft_cap_elements(const SoftCapArgs& args, const ParallelFor& parallel_for) {
  constexpr int64_t kCost = 16;  // of a hyperbolic tangent: as of reading so many bytes
  dispatch_type(args.type, [&](auto zero) HWY_ATTR {
    const auto* const x = static_cast<const decltype(zero)*>(args.x);
    parallel_for((args.count + kTask - 1) / kTask, kCost * kTask, [&](int64_t task) HWY_ATTR {
      const int64_t begin = task * kTask;
      for_lanes(std::min(kTask, args.count - begin), [&](auto d, int64_t j) HWY_ATTR {
        const auto cap = hn::Set(d, args.cap);
        hn::StoreU(hn::Mul(cap, hn::Tanh(d, hn::Div(load(d, x + begin + j), cap))), d, args.y + begin + j);
      });
    });
  });
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace xlstm::cpu {

void soft_cap(const SoftCapArgs& args, const ParallelFor& parallel_for) {
  static constexpr Variant<void(const SoftCapArgs&, const ParallelFor&)> variants[] = XLSTM_VARIANTS(soft_cap_elements);
  choose(variants)(args, parallel_for);
}

}  // namespace xlstm::cpu
#endif
