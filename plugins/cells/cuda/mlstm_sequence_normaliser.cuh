// n and m of the mLSTM cell after a sequence, for updates in place: the chunkwise kernels cannot write them while other
// blocks of the head may have yet to read them, so this second launch does.
//
// With R_s the sum of log f after position s, m' = max(m + R, max over s of R_s + log i_s), R being the sum of all, and
// n' = exp(m + R - m') n + sum over s of k_scale exp(R_s + log i_s - m') k_s. Positions are taken from the last one
// backwards, a thread for each, so that R_s is known; the sums are relative to the largest exponent so far and are
// scaled down where a larger one comes. Sums of log f are in double, as in chunk_gates.cuh.
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/chunk_gates.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

constexpr int kNormaliserThreads = 512;
constexpr int kNormaliserRows = 256;  // of n at a time, each by several threads that share the positions
constexpr int kNormaliserGroups = kNormaliserThreads / kNormaliserRows;

// Grid: batch * heads.
template <typename T>
__global__ void __launch_bounds__(kNormaliserThreads, 1) mlstm_sequence_normaliser_kernel(const MlstmArgs args) {
  constexpr int kWarps = kNormaliserThreads / kWarpSize;
  constexpr int kUnroll = 32;  // keys of a thread on their way at a time
  __shared__ double sums[kWarps];
  __shared__ float maxima[kWarps];
  __shared__ float weights[kNormaliserThreads];  // of the positions; at the end the groups' sums
  const int64_t DK = args.dim_qk;
  const int64_t head = blockIdx.x;
  const int64_t batch_row = head / args.heads;
  const int64_t length = row_length(args.lengths, batch_row, args.sequence);
  const int64_t row_token = batch_row * args.sequence * args.heads + head % args.heads;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int group = thread / kNormaliserRows;
  const float m = args.m_in[head];

  for (int64_t first_row = 0; first_row == 0 || first_row < DK; first_row += kNormaliserRows) {
    const int64_t row = first_row + thread % kNormaliserRows;
    const T* const keys = static_cast<const T*>(args.k) + row_token * DK + row;
    const int64_t stride = args.heads * DK;
    double rest = 0.0;           // the sum of log f after the positions to come
    float largest = -HUGE_VALF;  // of the exponents R_s + log i_s so far
    float n_sum = 0.0f;
    for (int64_t end = length; end > 0; end -= kNormaliserThreads) {
      const int64_t position = end - 1 - thread;
      float log_input = -HUGE_VALF, log_forget = 0.0f;
      if (position >= 0) {
        const int64_t gate = row_token + position * args.heads;
        log_input = soft_cap(to_float(static_cast<const T*>(args.i)[gate]), args.gate_soft_cap);
        log_forget = chunk_log_forget(to_float(static_cast<const T*>(args.f)[gate]), args.gate_soft_cap);
      }
      double after = 0.0, total = log_forget;
#pragma unroll
      for (int offset = 1; offset < kWarpSize; offset *= 2) {
        const double other = __shfl_xor_sync(kFullWarp, total, offset);
        if (lane & offset) after += other;
        total += other;
      }
      if (lane == 0) sums[warp] = total;
      __syncthreads();
      // Every warp adds up what the warps before it have, and what all have.
      double of_warps = sums[lane % kWarps], before_warp = lane % kWarps < warp ? of_warps : 0.0;
#pragma unroll
      for (int offset = 1; offset < kWarps; offset *= 2) {
        of_warps += __shfl_xor_sync(kFullWarp, of_warps, offset);
        before_warp += __shfl_xor_sync(kFullWarp, before_warp, offset);
      }
      const double exponent = rest + before_warp + after + log_input;
      float top = static_cast<float>(exponent);
#pragma unroll
      for (int offset = 1; offset < kWarpSize; offset *= 2) {
        top = maximum(top, __shfl_xor_sync(kFullWarp, top, offset));
      }
      if (lane == 0) maxima[warp] = top;
      __syncthreads();
      top = maxima[lane % kWarps];
#pragma unroll
      for (int offset = 1; offset < kWarps; offset *= 2) {
        top = maximum(top, __shfl_xor_sync(kFullWarp, top, offset));
      }
      top = maximum(top, largest);
      weights[thread] = args.k_scale * exp_of_negative(static_cast<float>(exponent - top));
      __syncthreads();

      float sum = 0.0f;
      if (row < DK) {
        int64_t position = end - 1 - group;
        for (int first = 0; first < kNormaliserRows; first += kUnroll, position -= kUnroll * kNormaliserGroups) {
          // Positions that are not there have weight 0: the first one stands in for them.
          const T* from = keys + (position < 0 ? 0 : position) * stride;
          T key[kUnroll];
#pragma unroll
          for (int u = 0; u < kUnroll; ++u) {
            key[u] = *from;
            if (position >= (u + 1) * kNormaliserGroups) from -= kNormaliserGroups * stride;
          }
#pragma unroll
          for (int u = 0; u < kUnroll; ++u) sum += weights[(first + u) * kNormaliserGroups + group] * to_float(key[u]);
        }
      }
      n_sum = n_sum * exp_of_negative(largest - top) + sum;
      largest = top;
      rest += of_warps;
    }

    __syncthreads();
    weights[thread] = n_sum;
    __syncthreads();
    const float m_end = maximum(static_cast<float>(m + rest), largest);
    if (group == 0 && row < DK) {
      float sum = 0.0f;
#pragma unroll
      for (int other = 0; other < kNormaliserGroups; ++other) sum += weights[other * kNormaliserRows + thread];
      sum *= exp_of_negative(largest - m_end);
      args.n_out[head * DK + row] =
          exp_of_negative(static_cast<float>(m + rest - m_end)) * args.n_in[head * DK + row] + sum;
    }
    if (first_row + kNormaliserRows >= DK && thread == 0) args.m_out[head] = m_end;
  }
}

}  // namespace xlstm::cuda
