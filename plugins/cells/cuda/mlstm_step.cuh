// mLSTM cell at one position: one pass over C that decays it, adds the outer product, queries it and normalises the
// result.
//
// A block owns kColumns columns of one head's C and all its DK rows, so it needs nothing from other blocks: each thread
// keeps kVector columns and walks down the rows, kGroups rows of the tile being in work at once. The products with q
// meet in one reduction across the row groups at the end. F, I and m' are three scalars that every thread computes for
// itself, and the new n is recomputed by every block of a head (DK floats against DK * kColumns of C), so a step has
// one barrier and no workspace.
//
// The time is that of C's way to the multiprocessor and back, so nothing may stand between the loads of a thread's
// kMlstmUnroll rows: no branch (beyond the edge a thread loads what it has already, and does not store it), no
// conversion, which would wait for its operand, and no question whether the batch row is idle: it runs along with F = 1
// and I = 0.
//
// Hazard of states updated in place: C is read and written by the same thread, but n and m are read by all the blocks
// of a head. The first block may write them only if they are not their own inputs, or if it is the only block;
// otherwise mlstm_normaliser_kernel writes them in a second launch, after every block has read them (`store_normaliser`
// false).
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/dependent_launch.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

constexpr int kMlstmThreads = 256;
constexpr int kMlstmWarps = kMlstmThreads / kWarpSize;
constexpr int kMlstmUnroll = 4;  // rows of C that a thread has in flight
constexpr int kMlstmBlocks = 3;  // resident on a multiprocessor at least: 48 KiB of C in flight

// What a launch works on: a position of the sequence, and the first of its batch rows and heads. Grid: (x, heads, batch
// rows).
struct MlstmSlice {
  unsigned position, batch_row, head;
};

// What a block works on: a head of a batch row, at that position.
struct MlstmPlace {
  unsigned batch_row;
  uint64_t state;  // index of (batch row, head)
  uint64_t token;  // index of (batch row, position, head)
};

__device__ __forceinline__ MlstmPlace mlstm_place(const MlstmArgs& args, const MlstmSlice& slice) {
  const unsigned batch_row = slice.batch_row + blockIdx.z, head = slice.head + blockIdx.y;
  const uint64_t heads = static_cast<unsigned>(args.heads), sequence = static_cast<unsigned>(args.sequence);
  return {batch_row, batch_row * heads + head, (batch_row * sequence + slice.position) * heads + head};
}

// How the head's state advances. That of an idle row does not, to the bit: F = 1, and -0 is added.
struct MlstmAdvance {
  bool active;  // the position is within its row's length
  MlstmGates<float> gates;

  template <typename T>
  __device__ __forceinline__ float key(const MlstmArgs& args, T k) const {
    return active ? gates.input * (args.k_scale * to_float(k)) : -0.0f;
  }
};

template <typename T>
__device__ __forceinline__ MlstmAdvance mlstm_advance(const MlstmArgs& args, const MlstmSlice& slice,
                                                      const MlstmPlace& place) {
  const bool active = slice.position < row_length(args.lengths, place.batch_row, args.sequence);
  const float i = to_float(static_cast<const T*>(args.i)[place.token]);
  const float f = to_float(static_cast<const T*>(args.f)[place.token]);
  const float m = args.m_in[place.state];
  const MlstmGates<float> gates = mlstm_gates(i, f, m, args.gate_soft_cap);
  if (active) return {true, gates};
  return {false, {1.0f, 0.0f, m}};
}

// Grid: (tiles of C, heads, batch rows).
template <typename T, typename M, int kVector, int kLanes>
__global__ void __launch_bounds__(kMlstmThreads, kMlstmBlocks)
    mlstm_step_kernel(const MlstmArgs args, const MlstmSlice slice, const bool store_normaliser) {
  constexpr int kColumns = kVector * kLanes;
  constexpr int kGroups = kMlstmThreads / kLanes;
  static_assert(kColumns <= kMlstmThreads && kLanes <= kWarpSize);
  __shared__ float partial_h[kMlstmWarps][kColumns];
  __shared__ float partial_dot[kMlstmWarps];

  const int DK = static_cast<int>(args.dim_qk), DV = static_cast<int>(args.dim_v);  // DK * DV fits an int
  const int tile = static_cast<int>(blockIdx.x);
  const int warp = threadIdx.x / kWarpSize;
  const int warp_lane = threadIdx.x % kWarpSize;
  const int lane = threadIdx.x % kLanes;
  const int group = threadIdx.x / kLanes;
  const int column = tile * kColumns + lane * kVector;
  const bool in_range = column < DV;  // with kVector > 1, DV is a multiple of it
  const int safe_column = in_range ? column : DV - kVector;

  // A thread's rows are first, first + kGroups, ...; the pointers point to the first, and `step` is the way on from it.
  const MlstmPlace place = mlstm_place(args, slice);
  const int safe_group = group < DK ? group : DK - 1;
  const uint64_t C_first =
      place.state * static_cast<unsigned>(DK * DV) + static_cast<unsigned>(safe_group * DV + safe_column);
  const uint64_t n_first = place.state * static_cast<unsigned>(DK) + static_cast<unsigned>(safe_group);
  const uint64_t q_first = place.token * static_cast<unsigned>(DK) + static_cast<unsigned>(safe_group);
  const M* C_in = settled(static_cast<const M*>(args.C_in) + C_first);
  M* C_out = settled(static_cast<M*>(args.C_out) + C_first);
  const float* n_in = settled(args.n_in + n_first);
  const T* q = settled(static_cast<const T*>(args.q) + q_first);
  const T* k = settled(static_cast<const T*>(args.k) + q_first);

  Vector<M, kVector> C[kMlstmUnroll];
  T q_row[kMlstmUnroll], k_row[kMlstmUnroll];
  float n_row[kMlstmUnroll];
  const auto step = [&](int first, int u) { return first + u * kGroups < DK ? u * kGroups : 0; };
  const auto load_rows = [&](int first) {
#pragma unroll
    for (int u = 0; u < kMlstmUnroll; ++u) C[u] = load_vector<kVector>(C_in + step(first, u) * DV);
#pragma unroll
    for (int u = 0; u < kMlstmUnroll; ++u) {
      q_row[u] = q[step(first, u)];
      k_row[u] = k[step(first, u)];
      n_row[u] = n_in[step(first, u)];
    }
  };

  if (lane * kVector * sizeof(M) % kSectorBytes == 0) {
#pragma unroll
    for (int u = 0; u < kMlstmUnroll; ++u) hint_to_l2(C_in + step(group, u) * DV);
  }
  wait_for_predecessors();
  let_successor_start();
  load_rows(group);
  const Vector<T, kVector> v_loaded =
      load_vector<kVector>(static_cast<const T*>(args.v) + place.token * static_cast<unsigned>(DV) + safe_column);
  const MlstmAdvance advance = mlstm_advance<T>(args, slice, place);
  float v[kVector];
#pragma unroll
  for (int j = 0; j < kVector; ++j) v[j] = advance.active ? to_float(v_loaded.values[j]) : 0.0f;

  const bool owns_normaliser = store_normaliser && tile == 0;
  const bool stays = !advance.active && args.C_in == args.C_out && !(owns_normaliser && args.n_in != args.n_out);
  float* n_out = args.n_out + n_first;
  float h[kVector] = {};
  float dot = 0.0f;  // n' . (q_scale q), in lane 0 of every row group; n may be in place, so the others may be late
  for (int first = group; first < (stays ? 0 : DK);) {
#pragma unroll
    for (int u = 0; u < kMlstmUnroll; ++u) {
      const bool here = first + u * kGroups < DK;
      const float query = args.q_scale * to_float(q_row[u]);
      const float key = advance.key(args, k_row[u]);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        const float memory = advance.gates.forget * to_float(C[u].values[j]) + key * v[j];
        C[u].values[j] = from_float<M>(memory);
        if (here) h[j] += memory * query;
      }
      if (here && in_range) store_vector(C_out + step(first, u) * DV, C[u]);
      const float n = advance.gates.forget * n_row[u] + key;
      if (here) dot += n * query;
      if (here && owns_normaliser && lane == 0) n_out[step(first, u)] = n;
    }
    constexpr int kRows = kGroups * kMlstmUnroll;
    first += kRows;
    if (first < DK) {
      C_in += kRows * DV, C_out += kRows * DV;
      q += kRows, k += kRows, n_in += kRows, n_out += kRows;
      load_rows(first);
    }
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

  const int h_column = tile * kColumns + static_cast<int>(threadIdx.x);
  if (threadIdx.x < kColumns && h_column < DV) {
    float numerator = 0.0f, n_dot_q = 0.0f;
#pragma unroll
    for (int w = 0; w < kMlstmWarps; ++w) {
      numerator += partial_h[w][threadIdx.x];
      n_dot_q += partial_dot[w];
    }
    const float divisor = mlstm_normaliser(n_dot_q, advance.gates.m, args.eps);
    static_cast<T*>(args.h)[place.token * static_cast<unsigned>(DV) + h_column] =
        from_float<T>(advance.active ? numerator / divisor : 0.0f);
  }
  // Behind the barrier: all threads have read m_in, which may be m_out.
  if (owns_normaliser && threadIdx.x == 0) args.m_out[place.state] = advance.gates.m;
}

// n and m, for updates in place. Grid: (1, heads, batch rows).
template <typename T>
__global__ void __launch_bounds__(kMlstmThreads) mlstm_normaliser_kernel(const MlstmArgs args, const MlstmSlice slice) {
  wait_for_predecessors();
  let_successor_start();
  const MlstmPlace place = mlstm_place(args, slice);
  const MlstmAdvance advance = mlstm_advance<T>(args, slice, place);
  const uint64_t DK = static_cast<uint64_t>(args.dim_qk);
  for (uint64_t row = threadIdx.x; row < DK; row += kMlstmThreads) {
    const float key = advance.key(args, static_cast<const T*>(args.k)[place.token * DK + row]);
    args.n_out[place.state * DK + row] = advance.gates.forget * args.n_in[place.state * DK + row] + key;
  }
  __syncthreads();  // m_out may be m_in
  if (threadIdx.x == 0) args.m_out[place.state] = advance.gates.m;
}

}  // namespace xlstm::cuda
