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

// In shared memory.
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

// The pre-activations of a lane's positions, on their way from global memory. Every lane of the warp that makes the
// gates has kLength / kWarpSize positions side by side.
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

// One lane of the warp that makes the gates, in steps that can stand apart: each takes about as long as a slab of
// products, so that nobody has to wait for this warp. Between steps a lane may lie in shared memory.
template <int kLength>
class GateLane {
  static constexpr int kOwned = kLength / kWarpSize;

 public:
  static constexpr int kSteps = 4;

  // The stabiliser before the first chunk; after the steps of a chunk it is the one after it.
  __device__ __forceinline__ void begin(float m) { m_ = m; }
  __device__ __forceinline__ float stabiliser() const { return m_; }

  // First step: log i and log f, which count for nothing beyond `valid`.
  template <typename T>
  __device__ __forceinline__ void take_logarithms(const GateInputs<T, kLength>& inputs, float gate_soft_cap,
                                                  int64_t valid) {
    total_ = 0.0;
#pragma unroll
    for (int e = 0; e < kOwned; ++e) {
      const bool counts = position(e) < valid;
      if (counts) total_ += chunk_log_forget(to_float(inputs.f[e]), gate_soft_cap);
      sum_[e] = total_;
      input_[e] = counts ? static_cast<double>(soft_cap(to_float(inputs.i[e]), gate_soft_cap)) : -HUGE_VAL;
    }
  }

  // Second step: F_t and log i_s - F_s.
  __device__ __forceinline__ void scan_sums() {
    double before = 0.0;  // of the lanes before this one
#pragma unroll
    for (int offset = 1; offset < kWarpSize; offset *= 2) {
      const double other = __shfl_xor_sync(kFullWarp, total_, offset);
      if (lane() & offset) before += other;
      total_ += other;
    }
#pragma unroll
    for (int e = 0; e < kOwned; ++e) {
      sum_[e] += before;
      input_[e] -= sum_[e];
    }
  }

  // Third step: the maxima, beginning with the stabiliser before the chunk.
  __device__ __forceinline__ void scan_maxima() {
    largest_ = input_[0];
#pragma unroll
    for (int e = 1; e < kOwned; ++e) largest_ = maximum(largest_, input_[e]);
    largest_before_ = m_;
#pragma unroll
    for (int offset = 1; offset < kWarpSize; offset *= 2) {
      const double other = __shfl_xor_sync(kFullWarp, largest_, offset);
      if (lane() & offset) largest_before_ = maximum(largest_before_, other);
      largest_ = maximum(largest_, other);
    }
  }

  // Last step: writes the gates.
  __device__ __forceinline__ void write(const MlstmArgs& args, ChunkGates<kLength>& gates) {
    const double m_before = m_;
    m_ = static_cast<float>(total_ + maximum(largest_, m_before));
#pragma unroll
    for (int e = 0; e < kOwned; ++e) {
      const int t = position(e);
      largest_before_ = maximum(largest_before_, input_[e]);
      const float m_t = static_cast<float>(sum_[e] + largest_before_);
      const double reach = sum_[e] - m_t;
      gates.reach[t] = to_pair(reach);
      gates.origin[t] = to_pair(-input_[e]);
      gates.gain[t] = args.k_scale * exp_of_negative(static_cast<float>(total_ - m_ + input_[e]));
      gates.carry[t] = args.q_scale * exp_of_negative(static_cast<float>(m_before + reach));
      gates.m[t] = m_t;
    }
    if (lane() == 0) gates.decay = exp_of_negative(static_cast<float>(m_before + total_ - m_));
  }

  template <typename T>
  __device__ __forceinline__ void compute(const MlstmArgs& args, const GateInputs<T, kLength>& inputs, int64_t valid,
                                          ChunkGates<kLength>& gates) {
    take_logarithms(inputs, args.gate_soft_cap, valid);
    scan_sums();
    scan_maxima();
    write(args, gates);
  }

 private:
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }
  static __device__ __forceinline__ int position(int e) { return lane() * kOwned + e; }

  double sum_[kOwned], input_[kOwned], total_, largest_, largest_before_;
  float m_;
};

}  // namespace xlstm::cuda
