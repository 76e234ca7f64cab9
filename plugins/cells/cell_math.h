// The arithmetic of the two cells, written once: gates, stabiliser, decay, soft-cap, normaliser.
// Plain scalar functions, usable from host C++ and from CUDA device code; `Real` is float in every kernel.
//
// Numerics: every exponent below is <= 0 by construction (the stabiliser m' is the maximum of the two exponents it is
// subtracted from, and the same rounded sums are compared and subtracted), so F, I, i and f lie in [0, 1] for any
// finite input. The one exponential that may overflow, exp(-m') in the mLSTM normaliser, then makes h = numerator / inf
// = 0, which is the exact value rounded. Do not compile this with fast-math: it relies on IEEE infinities and division.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define XLSTM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define XLSTM_HOST_DEVICE inline
#endif

namespace xlstm {

template <typename Real>
XLSTM_HOST_DEVICE Real maximum(Real a, Real b) {
  return a > b ? a : b;
}

// log(sigmoid(x)) = -softplus(-x), without log(0) for very negative x nor cancellation for large x.
template <typename Real>
XLSTM_HOST_DEVICE Real log_sigmoid(Real x) {
  const Real magnitude = x < Real(0) ? -x : x;
  const Real negative_part = x < Real(0) ? x : Real(0);
  return negative_part - std::log1p(std::exp(-magnitude));
}

// 1 / (1 + exp(-x)), with an exponent that is never positive.
template <typename Real>
XLSTM_HOST_DEVICE Real sigmoid(Real x) {
  const Real decayed = std::exp(x < Real(0) ? x : -x);
  return (x < Real(0) ? decayed : Real(1)) / (Real(1) + decayed);
}

// cap * tanh(x / cap); cap 0 means no cap.
template <typename Real>
XLSTM_HOST_DEVICE Real soft_cap(Real x, Real cap) {
  return cap > Real(0) ? cap * std::tanh(x / cap) : x;
}

// What one mLSTM step does to its state: C' = forget * C + input * (k_scale k) v^T, the same for n, and m' = m.
template <typename Real>
struct MlstmGates {
  Real forget;  // F = exp(log sigmoid(f) + m - m')
  Real input;   // I = exp(i - m')
  Real m;       // m' = max(log sigmoid(f) + m, i)
};

// Beck et al. 2024, equations 25 to 27 stabilised as in equation 15 to 17. i, f: pre-activations; m: the old
// stabiliser.
template <typename Real>
XLSTM_HOST_DEVICE MlstmGates<Real> mlstm_gates(Real i, Real f, Real m, Real gate_soft_cap) {
  const Real log_input = soft_cap(i, gate_soft_cap);
  const Real log_forget = log_sigmoid(soft_cap(f, gate_soft_cap)) + m;
  const Real m_new = maximum(log_forget, log_input);
  return {std::exp(log_forget - m_new), std::exp(log_input - m_new), m_new};
}

// The divisor of h = C'^T q / (max(|n' q|, exp(-m')) + eps); n_dot_q is n' . (q_scale q). May be +inf, never 0 with
// eps > 0, never NaN.
template <typename Real>
XLSTM_HOST_DEVICE Real mlstm_normaliser(Real n_dot_q, Real m, Real eps) {
  const Real magnitude = n_dot_q < Real(0) ? -n_dot_q : n_dot_q;
  return maximum(magnitude, std::exp(-m)) + eps;
}

template <typename Real>
struct SlstmState {
  Real y, c, n, m;
};

// One element of the sLSTM step (Beck et al. 2024, equations 8 to 17). i, f, z, o: complete pre-activations
// (x + R y + b). n == 0 marks an element that has seen no step: its forget gate is shut and m' = i. `old.y` is unused.
template <typename Real>
XLSTM_HOST_DEVICE SlstmState<Real> slstm_pointwise(Real i, Real f, Real z, Real o, SlstmState<Real> old,
                                                   Real forget_clamp) {
  const Real clamped = forget_clamp > Real(0) && f > forget_clamp ? forget_clamp : f;
  const bool first = old.n == Real(0);
  const Real log_forget = log_sigmoid(clamped) + old.m;
  const Real m = first ? i : maximum(i, log_forget);
  const Real input = std::exp(i - m);
  const Real forget = first ? Real(0) : std::exp(log_forget - m);
  const Real c = forget * old.c + input * std::tanh(z);
  const Real n = forget * old.n + input;
  return {sigmoid(o) * (c / n), c, n, m};
}

}  // namespace xlstm
