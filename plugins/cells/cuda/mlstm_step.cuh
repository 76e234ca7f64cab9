// mLSTM cell: one pass over C that decays it, adds the outer product, queries it and normalises the result.
//
// A block owns kColumns columns of one head's C and all its DK rows, so it needs nothing from other blocks: each thread
// keeps kVector columns and walks down the rows, kGroups rows of the tile being in work at once. The products with q
// meet in one reduction across the row groups at the end. F, I and m' are three scalars that every thread computes for
// itself, and the new n is recomputed by every block of a head (DK floats against DK * kColumns of C), so a step has
// one barrier and no workspace.
//
// Hazard of states updated in place: C is read and written by the same thread, but n and m are read by all the blocks
// of a head. The first block may write them only if they are not their own inputs, or if it is the only block;
// otherwise mlstm_normaliser_kernel writes them in a second launch, after every block has read them (`store_normaliser`
// false).
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

constexpr int kMlstmThreads = 256;
constexpr int kMlstmWarps = kMlstmThreads / kWarpSize;
constexpr int kMlstmUnroll = 4;  // rows of C that a thread has in flight
constexpr int kMlstmBlocks = 3;  // resident on a multiprocessor at least: 48 KiB of C in flight

// The gates of one head at one position, and the stabiliser that they give.
template <typename T>
__device__ __forceinline__ MlstmGates<float> mlstm_gates_at(const MlstmArgs& args, int64_t gate, float m) {
  return mlstm_gates(to_float(static_cast<const T*>(args.i)[gate]), to_float(static_cast<const T*>(args.f)[gate]), m,
                     args.gate_soft_cap);
}

// Positions [begin, end) of the sequence, whose states the arguments give at `begin`. C is stored as M; over several
// positions that is after each of them. Grid: batch * heads * tiles. Dynamic shared memory: DK floats if end - begin
// > 1.
template <typename T, typename M, int kVector, int kLanes>
__global__ void __launch_bounds__(kMlstmThreads, kMlstmBlocks)
    mlstm_step_kernel(const MlstmArgs args, const int64_t begin, const int64_t end, const bool store_normaliser) {
  constexpr int kColumns = kVector * kLanes;
  constexpr int kGroups = kMlstmThreads / kLanes;
  static_assert(kColumns <= kMlstmThreads && kLanes <= kWarpSize);
  __shared__ float partial_h[kMlstmWarps][kColumns];
  __shared__ float partial_dot[kMlstmWarps];
  XLSTM_DYNAMIC_SHARED(float, shared_n);

  const int DK = static_cast<int>(args.dim_qk), DV = static_cast<int>(args.dim_v);  // DK * DV fits an int
  const unsigned tiles = ceil_div(DV, kColumns);
  const int64_t head = blockIdx.x / tiles;  // of batch * heads
  const int tile = blockIdx.x % tiles;
  const int64_t batch_row = head / args.heads;
  const int64_t length = row_length(args.lengths, batch_row, args.sequence);
  const int64_t stop = length < end ? length : end;

  const int warp = threadIdx.x / kWarpSize;
  const int warp_lane = threadIdx.x % kWarpSize;
  const int lane = threadIdx.x % kLanes;
  const int group = threadIdx.x / kLanes;
  const int column = tile * kColumns + lane * kVector;
  const bool in_range = column < DV;  // with kVector > 1, DV is a multiple of it
  const int h_column = tile * kColumns + static_cast<int>(threadIdx.x);
  const bool owns_h = threadIdx.x < kColumns && h_column < DV;

  const M* C_read = static_cast<const M*>(args.C_in) + head * (DK * DV) + column;
  M* const C_write = static_cast<M*>(args.C_out) + head * (DK * DV) + column;
  const bool owns_normaliser = store_normaliser && tile == 0;
  const float* n_read = args.n_in + head * DK;
  float* const n_write = owns_normaliser ? args.n_out + head * DK : (end - begin > 1 ? shared_n : nullptr);
  float m = args.m_in[head];

  if (begin >= stop) {  // an idle row: its state is carried over
    if (in_range && args.C_in != args.C_out) {
      for (int row = group; row < DK; row += kGroups) {
        store_vector(C_write + row * DV, load_vector<kVector>(C_read + row * DV));
      }
    }
    if (owns_normaliser && args.n_in != args.n_out) {
      for (int row = threadIdx.x; row < DK; row += kMlstmThreads) args.n_out[head * DK + row] = n_read[row];
    }
  }

  for (int64_t position = begin; position < stop; ++position) {
    const int64_t token = (batch_row * args.sequence + position) * args.heads + head % args.heads;
    const T* const q = static_cast<const T*>(args.q) + token * DK;
    const T* const k = static_cast<const T*>(args.k) + token * DK;

    // Rows first, first + kGroups, ...: their loads are independent, and the first ones fly while the gates are
    // computed.
    Vector<M, kVector> C[kMlstmUnroll];
    float q_row[kMlstmUnroll], k_row[kMlstmUnroll], n_row[kMlstmUnroll];
    const auto load_rows = [&](int first) {
#pragma unroll
      for (int u = 0; u < kMlstmUnroll; ++u) {
        const int row = first + u * kGroups;
        if (row < DK && in_range) C[u] = load_vector<kVector>(C_read + row * DV);
        if (row < DK) {
          q_row[u] = to_float(q[row]);
          k_row[u] = to_float(k[row]);
          if (lane == 0) n_row[u] = n_read[row];
        }
      }
    };

    load_rows(group);
    Vector<T, kVector> v{};
    if (in_range) v = load_vector<kVector>(static_cast<const T*>(args.v) + token * DV + column);
    const MlstmGates<float> gates = mlstm_gates_at<T>(args, token, m);
    m = gates.m;

    float h[kVector] = {};
    float dot = 0.0f;  // n' . (q_scale q), in lane 0 of every row group
    for (int first = group; first < DK;) {
#pragma unroll
      for (int u = 0; u < kMlstmUnroll; ++u) {
        const int row = first + u * kGroups;
        if (row >= DK) break;
        const float query = args.q_scale * q_row[u];
        const float key = gates.input * (args.k_scale * k_row[u]);
        if (in_range) {
#pragma unroll
          for (int j = 0; j < kVector; ++j) {
            const float memory = gates.forget * to_float(C[u].values[j]) + key * to_float(v.values[j]);
            C[u].values[j] = from_float<M>(memory);
            h[j] += memory * query;
          }
          store_vector(C_write + row * DV, C[u]);
        }
        if (lane == 0) {
          const float n = gates.forget * n_row[u] + key;
          dot += n * query;
          if (n_write != nullptr) n_write[row] = n;
        }
      }
      first += kGroups * kMlstmUnroll;
      if (first < DK) load_rows(first);
    }

    // Across the row groups of a warp, then across the warps.
#pragma unroll
    for (int offset = kLanes; offset < kWarpSize; offset *= 2) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) h[j] += __shfl_xor_sync(kFullWarp, h[j], offset);
      dot += __shfl_xor_sync(kFullWarp, dot, offset);
    }
    if (warp_lane < kLanes) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) partial_h[warp][lane * kVector + j] = h[j];
    }
    if (warp_lane == 0) partial_dot[warp] = dot;
    __syncthreads();

    if (owns_h) {
      float numerator = 0.0f, n_dot_q = 0.0f;
#pragma unroll
      for (int w = 0; w < kMlstmWarps; ++w) {
        numerator += partial_h[w][threadIdx.x];
        n_dot_q += partial_dot[w];
      }
      static_cast<T*>(args.h)[token * DV + h_column] =
          from_float<T>(numerator / mlstm_normaliser(n_dot_q, m, args.eps));
    }
    // The states of the next position are what this one wrote: the same threads read them back.
    C_read = C_write;
    n_read = n_write;
    if (position + 1 < stop) __syncthreads();
  }

  // All threads have read m_in: a row that advanced has passed a barrier, an idle one leaves m as it is.
  if (owns_normaliser && threadIdx.x == 0 && (begin < stop || args.m_in != args.m_out)) args.m_out[head] = m;

  if (owns_h) {
    for (int64_t position = stop > begin ? stop : begin; position < end; ++position) {
      const int64_t token = (batch_row * args.sequence + position) * args.heads + head % args.heads;
      static_cast<T*>(args.h)[token * DV + h_column] = from_float<T>(0.0f);
    }
  }
}

// n and m of every head over positions [begin, end), for updates in place. Grid: batch * heads.
template <typename T>
__global__ void __launch_bounds__(kMlstmThreads)
    mlstm_normaliser_kernel(const MlstmArgs args, const int64_t begin, const int64_t end) {
  const int64_t DK = args.dim_qk;
  const int64_t head = blockIdx.x;
  const int64_t batch_row = head / args.heads;
  const int64_t length = row_length(args.lengths, batch_row, args.sequence);
  const int64_t stop = length < end ? length : end;
  const float m_first = args.m_in[head];
  __syncthreads();  // m_out may be m_in

  float m = m_first;
  for (int64_t first = 0; first < DK; first += kMlstmThreads) {
    const int64_t row = first + threadIdx.x;
    float n = row < DK ? args.n_in[head * DK + row] : 0.0f;
    m = m_first;
    for (int64_t position = begin; position < stop; ++position) {
      const int64_t token = (batch_row * args.sequence + position) * args.heads + head % args.heads;
      const MlstmGates<float> gates = mlstm_gates_at<T>(args, token, m);
      m = gates.m;
      if (row < DK) {
        const float k = to_float(static_cast<const T*>(args.k)[token * DK + row]);
        n = gates.forget * n + gates.input * (args.k_scale * k);
      }
    }
    if (row < DK) args.n_out[head * DK + row] = n;
  }
  if (threadIdx.x == 0) args.m_out[head] = m;
}

}  // namespace xlstm::cuda
