// What the norms share. Compiled once for each instruction set: include it after hwy/foreach_target.h.
#if defined(XLSTM_CELLS_CPU_NORM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef XLSTM_CELLS_CPU_NORM_INL_H_
#undef XLSTM_CELLS_CPU_NORM_INL_H_
#else
#define XLSTM_CELLS_CPU_NORM_INL_H_
#endif

#include <cmath>

#include "cells/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {

// Sum of function(x[j]).
template <class T, class Function>
HWY_INLINE float sum_of(int64_t count, const T* x, const Function& function) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  int64_t j = 0;
  for (; j + lanes <= count; j += lanes) sum = hn::Add(sum, function(d, load(d, x + j)));
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; j < count; ++j) {
    const hn::CappedTag<float, 1> one;
    total += hn::GetLane(function(one, load(one, x + j)));
  }
  return total;
}

// What a norm takes away from its elements, and what it multiplies the rest with.
struct Norm {
  float mean, scale;

  template <class D, class V>
  HWY_INLINE V operator()(D d, V x) const {
    return hn::Mul(hn::Sub(x, hn::Set(d, mean)), hn::Set(d, scale));
  }
};

// The layer norm of x, or, not `centred`, the root mean square norm.
template <class T>
HWY_INLINE Norm norm_of(int64_t count, const T* x, bool centred, float eps) {
  const float size = static_cast<float>(count);
  const float mean = centred ? sum_of(count, x, [](auto, auto v) HWY_ATTR { return v; }) / size : 0;
  const auto square = [&](auto d, auto v) HWY_ATTR {
    const auto rest = hn::Sub(v, hn::Set(d, mean));
    return hn::Mul(rest, rest);
  };
  return {mean, 1 / std::sqrt(sum_of(count, x, square) / size + eps)};
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
