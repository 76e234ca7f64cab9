// Activations as vectors. Compiled once for each instruction set: include it after hwy/foreach_target.h.
#if defined(XLSTM_CELLS_CPU_ACTIVATIONS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef XLSTM_CELLS_CPU_ACTIVATIONS_INL_H_
#undef XLSTM_CELLS_CPU_ACTIVATIONS_INL_H_
#else
#define XLSTM_CELLS_CPU_ACTIVATIONS_INL_H_
#endif

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D, class V>
HWY_INLINE V sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f), decayed = hn::Exp(d, hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), decayed, one), hn::Add(one, decayed));
}

template <class D, class V>
HWY_INLINE V silu(D d, V x) {
  return hn::Mul(x, sigmoid(d, x));
}

// erfc(z) of z >= 0, within 1e-7 of itself in exact arithmetic: log(erfc(z) exp(z^2) / t) as a polynomial of
// t = 1 / (1 + z / 2), by least squares at Chebyshev's nodes.
template <class D, class V>
HWY_INLINE V erfc(D d, V z) {
  constexpr float kCoefficients[] = {0.17087278f,  -0.82215223f, 1.4885159f,  -1.135204f,  0.27886808f,
                                     -0.18628806f, 0.09678419f,  0.37409196f, 1.00002368f, -1.26551223f};
  const V one = hn::Set(d, 1.0f), t = hn::Div(one, hn::MulAdd(z, hn::Set(d, 0.5f), one));
  V sum = hn::Set(d, kCoefficients[0]);
  for (size_t k = 1; k < 10; ++k) sum = hn::MulAdd(sum, t, hn::Set(d, kCoefficients[k]));
  return hn::Mul(t, hn::Exp(d, hn::NegMulAdd(z, z, sum)));
}

// x (1 + erf(x / sqrt(2))) / 2, from the tail on the side of x.
template <class D, class V>
HWY_INLINE V gelu(D d, V x) {
  const V tail = hn::Mul(hn::Set(d, 0.5f), erfc(d, hn::Mul(hn::Abs(x), hn::Set(d, 0.70710678f))));
  const V share = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 1.0f), tail));
  return hn::Mul(x, share);
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
