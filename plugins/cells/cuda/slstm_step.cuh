// sLSTM cell, one position: the recurrent matrix-vector product of every head fused with the pointwise part.
//
// A warp owns one output unit of a head: the four rows of R that lead to its gates, against the y of kRows batch rows,
// so R is read once for kRows rows and the four gates of a unit meet in one block. The sums cross to the pointwise part
// through shared memory, where a thread owns one (batch row, unit); its inputs are loaded before the product starts.
//
// Hazard: every block of a head reads the whole y of that head, so y_next must never be y_prev; the launcher sees to it
// with the workspace. c, n and m are read and written by the same thread and may be updated in place.
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

constexpr int kSlstmThreads = 256;
constexpr int kSlstmUnits = kSlstmThreads / kWarpSize;  // output units of a block, one for each warp
constexpr int kGates = 4;                               // i, f, z, o

// Folds 2 * kHalf values in each lane into kHalf, and so on down to one: lanes l and l ^ kHalf exchange halves.
template <int kHalf, int N>
__device__ __forceinline__ void fold_halves(float (&values)[N], int lane) {
  if constexpr (kHalf >= 1) {
    const bool upper = lane & kHalf;
#pragma unroll
    for (int j = 0; j < kHalf; ++j) {
      // Clang would choose between addresses, which keeps the array out of registers.
      const float low = values[j], high = values[j + kHalf];
      const float kept = upper ? high : low;
      const float sent = upper ? low : high;
      values[j] = kept + __shfl_xor_sync(kFullWarp, sent, kHalf);
    }
    fold_halves<kHalf / 2>(values, lane);
  }
}

// Sums N values over the lanes of a warp (N a power of two, at most 32) with N - 1 + log2(32 / N) exchanges: lane l
// returns the total of value l % N.
template <int N>
__device__ __forceinline__ float reduce_scatter(float (&values)[N], int lane) {
  fold_halves<N / 2>(values, lane);
  float total = values[0];
#pragma unroll
  for (int offset = N; offset < kWarpSize; offset *= 2) total += __shfl_xor_sync(kFullWarp, total, offset);
  return total;
}

// Adds the products of one unit's rows of R, a gate_stride apart, with those of y, a row_stride apart: this lane's part
// of acc[gate * kRows + row]. Columns from `width` on, a multiple of kVector, and rows from `rows` on are left alone.
template <int kVector, int kRows, typename RecurrentT>
__device__ __forceinline__ void accumulate_gates(const RecurrentT* R, int64_t gate_stride, const float* y,
                                                 int64_t row_stride, int width, int rows, int lane,
                                                 float (&acc)[kGates * kRows]) {
  // As many as fit into the registers.
  [[maybe_unused]] constexpr int kUnroll = kRows == 1 || sizeof(RecurrentT) == 2 ? 2 : 1;
#pragma unroll kUnroll
  for (int in = lane * kVector; in < width; in += kWarpSize * kVector) {
    Vector<RecurrentT, kVector> weights[kGates];
#pragma unroll
    for (int g = 0; g < kGates; ++g) weights[g] = load_vector<kVector>(R + g * gate_stride + in);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows) break;
      constexpr int kPart = kVector < 4 ? kVector : 4;  // 16 bytes of y at a time
#pragma unroll
      for (int part = 0; part < kVector; part += kPart) {
        const Vector<float, kPart> y_part = load_vector<kPart>(y + r * row_stride + in + part);
#pragma unroll
        for (int g = 0; g < kGates; ++g) {
#pragma unroll
          for (int j = 0; j < kPart; ++j) {
            acc[g * kRows + r] += to_float(weights[g].values[part + j]) * y_part.values[j];
          }
        }
      }
    }
  }
}

// x of one unit at one position of one row, and its b, for the four gates.
template <typename T>
__device__ __forceinline__ void load_inputs(const SlstmArgs& args, int64_t row, int64_t position, int64_t head,
                                            int unit, T (&x)[kGates]) {
#pragma unroll
  for (int g = 0; g < kGates; ++g) {
    const int64_t token = ((row * args.sequence + position) * kGates + g) * args.heads + head;
    x[g] = static_cast<const T*>(args.x)[token * args.dim + unit];
  }
}

__device__ __forceinline__ void load_bias(const SlstmArgs& args, int64_t head, int unit, float (&bias)[kGates]) {
#pragma unroll
  for (int g = 0; g < kGates; ++g) bias[g] = args.b[(g * args.heads + head) * args.dim + unit];
}

// The state inputs of `args` are those at `position`, with y in y_prev and y_next. Grid: heads * unit tiles * row
// tiles, the row tiles of the same weights side by side.
template <typename T, typename RecurrentT, int kVector, int kRows>
__global__ void __launch_bounds__(kSlstmThreads, 2)
    slstm_step_kernel(const SlstmArgs args, const float* y_prev, float* y_next, const int64_t position) {
  constexpr int kSums = kGates * kRows;
  static_assert(kRows * kSlstmUnits <= kSlstmThreads && kSums <= kWarpSize);
  __shared__ float sums[kSums][kSlstmUnits];

  const int DH = static_cast<int>(args.dim), rows = static_cast<int>(args.batch);
  const unsigned row_tiles = ceil_div(rows, kRows);
  const unsigned unit_tiles = ceil_div(DH, kSlstmUnits);
  const int first_row = blockIdx.x % row_tiles * kRows;
  const int first_unit = blockIdx.x / row_tiles % unit_tiles * kSlstmUnits;
  const int64_t head = blockIdx.x / row_tiles / unit_tiles;
  const int warp = threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;

  // The element of the pointwise part that this thread owns, if any.
  const int own_row = threadIdx.x / kSlstmUnits;
  const int own_unit = threadIdx.x % kSlstmUnits;
  const int64_t row = first_row + own_row;
  const int unit = first_unit + own_unit;
  const bool owner = own_row < kRows && row < rows && unit < DH;
  const int64_t element = (row * args.heads + head) * DH + unit;
  bool active = false;
  T x[kGates] = {};
  float bias[kGates] = {};
  SlstmState<float> state{};
  if (owner) {
    active = position < row_length(args.lengths, row, args.sequence);
    if (active) load_inputs(args, row, position, head, unit, x);
    load_bias(args, head, unit, bias);
    state = {0.0f, args.c_in[element], args.n_in[element], args.m_in[element]};
  }

  float acc[kSums] = {};
  const int out = first_unit + warp;
  if (out < DH) {
    const RecurrentT* const R = static_cast<const RecurrentT*>(args.R) + (head * kGates * DH + out) * int64_t{DH};
    const float* const y = y_prev + (first_row * args.heads + head) * DH;
    accumulate_gates<kVector, kRows>(R, int64_t{DH} * DH, y, args.heads * DH, DH, rows - first_row, lane, acc);
  }
  const float sum = reduce_scatter(acc, lane);
  if (lane < kSums) sums[lane][warp] = sum;
  __syncthreads();
  if (!owner) return;

  T hidden = from_float<T>(0.0f);
  if (active) {
    const auto raw = [&](int gate) { return to_float(x[gate]) + bias[gate] + sums[gate * kRows + own_row][own_unit]; };
    state = slstm_pointwise(raw(0), raw(1), raw(2), raw(3), state, args.forget_clamp);
    hidden = from_float<T>(state.y);
  } else {
    state.y = y_prev[element];
  }
  y_next[element] = state.y;
  args.c_out[element] = state.c;
  args.n_out[element] = state.n;
  args.m_out[element] = state.m;
  static_cast<T*>(args.hidden)[((row * args.sequence + position) * args.heads + head) * DH + unit] = hidden;
}

}  // namespace xlstm::cuda
