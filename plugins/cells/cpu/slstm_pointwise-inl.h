// The sLSTM step of one element in each lane: cells/cell_math.h's slstm_pointwise, which says what the formulas are, as
// vectors. Compiled once for each instruction set: include it after hwy/foreach_target.h.
#if defined(XLSTM_CELLS_CPU_SLSTM_POINTWISE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef XLSTM_CELLS_CPU_SLSTM_POINTWISE_INL_H_
#undef XLSTM_CELLS_CPU_SLSTM_POINTWISE_INL_H_
#else
#define XLSTM_CELLS_CPU_SLSTM_POINTWISE_INL_H_
#endif

#include "cells/cpu/activations-inl.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D, class V>
HWY_INLINE V log_sigmoid(D d, V x) {
  const V decayed = hn::Exp(d, hn::Neg(hn::Abs(x)));
  return hn::Sub(hn::Min(x, hn::Zero(d)), hn::Log1p(d, decayed));
}

template <class D, class V>
HWY_INLINE V tanh(D d, V x) {
  const V limit = hn::Set(d, 20.0f);  // tanh is 1 from 9.01 on, and Highway's overflows inside for large arguments
  return hn::Tanh(d, hn::Clamp(x, hn::Neg(limit), limit));
}

// i, f, z, o: complete pre-activations. c, n and m are updated where they lie, y is written; all aligned.
template <class D, class V>
HWY_INLINE void pointwise(D d, V i, V f, V z, V o, float forget_clamp, float* y, float* c, float* n, float* m) {
  if (forget_clamp > 0) f = hn::Min(f, hn::Set(d, forget_clamp));
  const auto n_old = hn::Load(d, n);
  const auto first = hn::Eq(n_old, hn::Zero(d));
  const auto log_forget = hn::Add(log_sigmoid(d, f), hn::Load(d, m));
  const auto m_new = hn::IfThenElse(first, i, hn::Max(i, log_forget));
  const auto input = hn::Exp(d, hn::Sub(i, m_new));
  // At the first position log_forget - m may be anything, exp of it infinite: it is cut before, not after.
  const auto forget = hn::IfThenZeroElse(first, hn::Exp(d, hn::Min(hn::Sub(log_forget, m_new), hn::Zero(d))));
  const auto c_new = hn::MulAdd(forget, hn::Load(d, c), hn::Mul(input, tanh(d, z)));
  const auto n_new = hn::MulAdd(forget, n_old, input);
  hn::Store(hn::Mul(sigmoid(d, o), hn::Div(c_new, n_new)), d, y);
  hn::Store(c_new, d, c);
  hn::Store(n_new, d, n);
  hn::Store(m_new, d, m);
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
