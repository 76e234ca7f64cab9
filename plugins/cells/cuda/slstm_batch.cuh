// sLSTM cell, one position of many batch rows, on the tensor cores (sm_80 and later).
//
// A block computes kUnits units of a head for kRows batch rows: a product of the rows of R that lead to the units'
// gates with y, both as sums of bfloat16 (slstm_operands.cuh), fused with the pointwise part. A warp's rows of R go
// straight from global memory into its registers; the rows of y are split in shared memory, kDepth inputs at a time in
// two buffers by turns. For 16-bit activations: with the parts that float32 needs, ordinary arithmetic is as quick.
//
// Hazard: as in slstm_step.cuh, y_next must never be y_prev.
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/slstm_operands.cuh"
#include "cells/cuda/slstm_step.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

// A warp computes two operands of R times kTiles of y; the warps of a block are two by four.
struct SlstmBatch {
  static constexpr int kOperands = 2, kTiles = 4;
  static constexpr int kWarpUnits = kOperands * kOperandUnits, kUnits = 2 * kWarpUnits;
  static constexpr int kTileRows = 4;  // kOperandColumns of two parts
  static constexpr int kWarpRows = kTiles * kTileRows, kRows = 4 * kWarpRows;
  static constexpr int kDepth = 64;
  static constexpr int kPitch = kDepth + 32;  // an odd number of 64 bytes: 16-byte loads meet no bank twice
};

// Brings a line into the second-level cache, long before it is read.
__device__ __forceinline__ void prefetch(const void* address) {
#if defined(__CUDACC__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#else
  (void)address;
#endif
}

// The state inputs of `args` are those at `position`, with y in y_prev and y_next. DH is a multiple of 8; R and y_prev
// are aligned to 16 bytes. Grid: row tiles, unit tiles, heads.
template <typename T, typename RecurrentT>
__global__ void __launch_bounds__(kSlstmThreads, SlstmParts<T, RecurrentT>::kWeights == 1 ? 2 : 1)
    slstm_batch_kernel(const SlstmArgs args, const float* y_prev, float* y_next, const int64_t position) {
#if __CUDA_ARCH__ >= 800
  using Batch = SlstmBatch;
  using Parts = SlstmParts<T, RecurrentT>;
  static_assert(Parts::kRowColumns == 2);
  constexpr int kOperands = Batch::kOperands, kTiles = Batch::kTiles, kSlabs = Batch::kDepth / kSlstmSlab;
  constexpr int kColumns = 2 * Batch::kRows;
  __align__(16) __shared__ __nv_bfloat16 y[2][kColumns][Batch::kPitch];

  const int DH = static_cast<int>(args.dim), rows = static_cast<int>(args.batch);
  const int64_t head = blockIdx.z, stride = args.heads * DH;
  const int first_row = static_cast<int>(blockIdx.x) * Batch::kRows;
  const int first_unit = static_cast<int>(blockIdx.y) * Batch::kUnits;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int quad = lane % 4, first_gate = lane / 4 % 2;
  const int lane_unit = first_unit + warp % 2 * Batch::kWarpUnits + lane / 8;
  const int warp_row = warp / 2 * Batch::kWarpRows;  // of the block's
  const RecurrentT* const R = static_cast<const RecurrentT*>(args.R) + head * kGates * DH * DH;

  // R, x and the states come from afar while y is split.
  {
    constexpr int kLine = 128;
    const int row = threadIdx.x / 4, part = threadIdx.x % 4, unit = first_unit + row % Batch::kUnits;
    const char* const weights = reinterpret_cast<const char*>(R + (int64_t{row / Batch::kUnits} * DH + unit) * DH);
    for (int byte = part * kLine; unit < DH && byte < DH * static_cast<int>(sizeof(RecurrentT)); byte += 4 * kLine) {
      prefetch(weights + byte);
    }
    if (first_row + row < rows) {
      const int64_t token = ((first_row + row) * args.sequence + position) * kGates + part;
      prefetch(static_cast<const T*>(args.x) + token * stride + head * DH + first_unit);
      const float* const state = part == 0 ? args.c_in : part == 1 ? args.n_in : part == 2 ? args.m_in : y_prev;
      prefetch(state + (first_row + row) * stride + head * DH + first_unit);
    }
  }

  // Rows and units that do not exist are copies of the last one, whose sums nobody takes. Inputs that do not exist are
  // zeros of y, whatever R is there.
  constexpr int kRowThreads = Batch::kDepth / 4, kStagedRows = kSlstmThreads / kRowThreads;
  constexpr int kStaged = Batch::kRows / kStagedRows;
  const int staged_row = threadIdx.x / kRowThreads, staged_in = threadIdx.x % kRowThreads * 4;
  const float* y_from[kStaged];
#pragma unroll
  for (int i = 0; i < kStaged; ++i) {
    const int row = min(first_row + staged_row + i * kStagedRows, rows - 1);
    y_from[i] = y_prev + row * stride + head * DH + staged_in;
  }
  Vector<float, 4> staged[kStaged];
  const auto load_y = [&](int depth) {
#pragma unroll
    for (int i = 0; i < kStaged; ++i) {
      staged[i] = {};
      if (depth + staged_in < DH) staged[i] = load_vector<4>(y_from[i] + depth);
    }
  };
  const auto store_y = [&](int buffer) {
#pragma unroll
    for (int i = 0; i < kStaged; ++i) {
      const int column = 2 * (staged_row + i * kStagedRows);
      float (&values)[4] = staged[i].values;
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint32_t low = take_parts(values[0], values[1]), high = take_parts(values[2], values[3]);
        store_vector<2>(reinterpret_cast<uint32_t*>(&y[buffer][column + part][staged_in]), {low, high});
      }
    }
  };
  const RecurrentT* weights_from[kOperands][2];
#pragma unroll
  for (int operand = 0; operand < kOperands; ++operand) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int unit = min(lane_unit + operand * kOperandUnits, DH - 1);
      weights_from[operand][half] = R + (int64_t{first_gate + 2 * half} * DH + unit) * DH;
    }
  }
  Eight<RecurrentT> weights[kOperands][2];  // of the slab to come
  const auto load_weights = [&](int operand, int in) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      weights[operand][half] = load_eight(weights_from[operand][half] + min(in + quad * 8, DH - 8));
    }
  };

  float sums[kOperands][kTiles][4] = {};
  load_y(0);
#pragma unroll
  for (int operand = 0; operand < kOperands; ++operand) load_weights(operand, 0);
  store_y(0);
  __syncthreads();
  for (int depth = 0; depth < DH; depth += Batch::kDepth) {
    const int buffer = depth / Batch::kDepth % 2;
    load_y(depth + Batch::kDepth);
    if (first_row + warp_row < rows) {
#pragma unroll
      for (int slab = 0; slab < kSlabs; ++slab) {
        uint32_t columns[2][kTiles][2];
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const int column = 2 * warp_row + tile * kOperandColumns + lane / 4;
          const auto loaded =
              load_vector<4>(reinterpret_cast<const uint32_t*>(&y[buffer][column][slab * kSlstmSlab + quad * 8]));
#pragma unroll
          for (int word = 0; word < 4; ++word) columns[word / 2][tile][word % 2] = loaded.values[word];
        }
#pragma unroll
        for (int operand = 0; operand < kOperands; ++operand) {
          SlabOperands<Parts::kWeights> parts;
          make_operands(weights[operand], parts);
          load_weights(operand, depth + (slab + 1) * kSlstmSlab);
#pragma unroll
          for (int part = 0; part < Parts::kWeights; ++part) {
#pragma unroll
            for (int product = 0; product < 2; ++product) {
              multiply_add<__nv_bfloat16>(sums[operand], parts[part][product], columns[product]);
            }
          }
        }
      }
    }
    store_y(1 - buffer);
    __syncthreads();
  }

  // Of two tiles of sums the lanes with gates i and z take the first, those with f and o the second.
  constexpr int kTaken = kTiles / 2;
  const bool second = first_gate != 0;
  const int first_taken = first_row + warp_row + first_gate * kTaken * Batch::kTileRows + quad;
#pragma unroll
  for (int operand = 0; operand < kOperands; ++operand) {
    const int unit = lane_unit + operand * kOperandUnits;
    float bias[kGates] = {};
    if (unit < DH) load_bias(args, head, unit, bias);
    T x[kTaken][kGates] = {};
    SlstmState<float> states[kTaken] = {};
    bool exists[kTaken], active[kTaken];
#pragma unroll
    for (int tile = 0; tile < kTaken; ++tile) {
      const int row = first_taken + tile * Batch::kTileRows;
      const int64_t element = row * stride + head * DH + unit;
      exists[tile] = row < rows && unit < DH;
      active[tile] = exists[tile] && position < row_length(args.lengths, row, args.sequence);
      if (active[tile]) load_inputs(args, row, position, head, unit, x[tile]);
      if (exists[tile]) states[tile] = {y_prev[element], args.c_in[element], args.n_in[element], args.m_in[element]};
    }
#pragma unroll
    for (int tile = 0; tile < kTaken; ++tile) {
      float own[2], other[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float (&a)[4] = sums[operand][tile], (&b)[4] = sums[operand][tile + kTaken];
        const float sum_a = a[2 * half] + a[2 * half + 1], sum_b = b[2 * half] + b[2 * half + 1];
        own[half] = second ? sum_b : sum_a;
        other[half] = __shfl_xor_sync(kFullWarp, second ? sum_a : sum_b, 4);
      }
      if (!exists[tile]) continue;
      SlstmState<float> state = states[tile];
      if (active[tile]) {
        const auto raw = [&](int gate) {
          const float sum = (gate % 2 != 0) == second ? own[gate / 2] : other[gate / 2];
          return to_float(x[tile][gate]) + bias[gate] + sum;
        };
        state = slstm_pointwise(raw(0), raw(1), raw(2), raw(3), state, args.forget_clamp);
      }
      const int row = first_taken + tile * Batch::kTileRows;
      const int64_t element = row * stride + head * DH + unit, token = row * args.sequence + position;
      y_next[element] = state.y;
      args.c_out[element] = state.c;
      args.n_out[element] = state.n;
      args.m_out[element] = state.m;
      static_cast<T*>(args.hidden)[token * stride + head * DH + unit] = from_float<T>(active[tile] ? state.y : 0.0f);
    }
  }
#endif
}

}  // namespace xlstm::cuda
