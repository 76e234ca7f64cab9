// The gates of a chunk of mLSTM positions, by one warp.
//
// With F_t the sum of log f up to position t of the chunk and m_b the stabiliser before it,
//   m_t = F_t + max(m_b, max over s <= t of log i_s - F_s)
// is the recurrence m_t = max(log f_t + m_(t-1), log i_t), and D_ts = F_t - F_s + log i_s is the logarithm of what
// position t still has of the input at s <= t. Sums and differences are in double: after one strongly negative log f,
// floats would have no digits left for what comes after it. D_ts - m_t = (F_t - m_t) - (F_s - log i_s), which every
// pair of positions needs, is made from two floats for each of the two differences.
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

struct FloatPair {
  float high, low;  // a double, nearly
};
__device__ __forceinline__ FloatPair to_pair(double x) {
  const float high = static_cast<float>(x);
  return {high, static_cast<float>(x - high)};
}

// log f of a pre-activation. Lower ones change nothing but overflow the sums: no log i nor m brings back what is lost.
__device__ __forceinline__ float chunk_log_forget(float f, float gate_soft_cap) {
  return maximum(log_sigmoid(soft_cap(f, gate_soft_cap)), -1e30f);
}

// exp of an exponent that is at most 0 but for rounding.
__device__ __forceinline__ float exp_of_negative(float x) { return std::exp(x < 0.0f ? x : 0.0f); }

// In shared memory. Every lane has kLength / kWarpSize positions side by side.
template <int kLength>
struct ChunkGates {
  alignas(16) FloatPair reach[kLength];   // F_t - m_t
  alignas(16) FloatPair origin[kLength];  // F_s - log i_s
  float gain[kLength];   // k_scale exp(D_es - m_e), e the last position: the weight of k_s in the state; 0 beyond it
  float carry[kLength];  // q_scale exp(m_b + F_t - m_t): the weight of the state before the chunk in the output
  float m[kLength];      // m_t
  float decay;           // exp(m_b + F_e - m_e): what is left of the state before the chunk after it
};

// exp(D_ts - m_t).
__device__ __forceinline__ float chunk_weight(FloatPair reach, FloatPair origin) {
  return exp_of_negative((reach.high - origin.high) + (reach.low - origin.low));
}

// The pre-activations of a lane's positions, on their way from global memory.
template <typename T, int kLength>
struct GateInputs {
  static constexpr int kOwned = kLength / kWarpSize;
  T i[kOwned], f[kOwned];

  // Of the `valid` positions from `token` on.
  __device__ __forceinline__ void fetch(const MlstmArgs& args, int64_t token, int64_t valid) {
#pragma unroll
    for (int e = 0; e < kOwned; ++e) {
      const int t = static_cast<int>(threadIdx.x) % kWarpSize * kOwned + e;
      if (t >= valid) continue;
      i[e] = static_cast<const T*>(args.i)[token + t * args.heads];
      f[e] = static_cast<const T*>(args.f)[token + t * args.heads];
    }
  }
};

// Called by a whole warp; `m` is the stabiliser before the chunk, the result the one after it.
template <typename T, int kLength>
__device__ float compute_chunk_gates(const MlstmArgs& args, const GateInputs<T, kLength>& inputs, int64_t valid,
                                     float m, ChunkGates<kLength>& gates) {
  constexpr int kOwned = GateInputs<T, kLength>::kOwned;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  double sum[kOwned], input[kOwned];  // over the lane's own positions; log i_s - F_s
  double total = 0.0;
#pragma unroll
  for (int e = 0; e < kOwned; ++e) {
    input[e] = -HUGE_VAL;
    if (lane * kOwned + e < valid) {
      input[e] = soft_cap(to_float(inputs.i[e]), args.gate_soft_cap);
      total += chunk_log_forget(to_float(inputs.f[e]), args.gate_soft_cap);
    }
    sum[e] = total;
  }

  // Scans over the lanes: the sum and the maximum of those before this one, and of all.
  double before = 0.0;
#pragma unroll
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const double other = __shfl_xor_sync(kFullWarp, total, offset);
    if (lane & offset) before += other;
    total += other;
  }
  double largest = -HUGE_VAL, largest_before = m;
#pragma unroll
  for (int e = 0; e < kOwned; ++e) {
    sum[e] += before;
    input[e] -= sum[e];
    largest = maximum(largest, input[e]);
  }
#pragma unroll
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const double other = __shfl_xor_sync(kFullWarp, largest, offset);
    if (lane & offset) largest_before = maximum(largest_before, other);
    largest = maximum(largest, other);
  }
  const float m_end = static_cast<float>(total + maximum(largest, static_cast<double>(m)));

#pragma unroll
  for (int e = 0; e < kOwned; ++e) {
    const int t = lane * kOwned + e;
    largest_before = maximum(largest_before, input[e]);
    const float m_t = static_cast<float>(sum[e] + largest_before);
    const double reach = sum[e] - m_t;
    gates.reach[t] = to_pair(reach);
    gates.origin[t] = to_pair(-input[e]);
    gates.gain[t] = args.k_scale * exp_of_negative(static_cast<float>(total - m_end + input[e]));
    gates.carry[t] = args.q_scale * exp_of_negative(static_cast<float>(m + reach));
    gates.m[t] = m_t;
  }
  if (lane == 0) gates.decay = exp_of_negative(static_cast<float>(m + total - m_end));
  return m_end;
}

}  // namespace xlstm::cuda
