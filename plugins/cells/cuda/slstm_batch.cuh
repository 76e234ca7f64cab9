// sLSTM cell, one position of many batch rows, on the tensor cores (sm_80 and later).
//
// A block computes kUnits units of a head for kRows batch rows: a product of y with the rows of R that lead to the
// units' gates, both as sums of bfloat16 (slstm_operands.cuh), fused with the pointwise part. A warp's rows of R go
// straight from global memory into its registers; y is split in shared memory, kDepth inputs at a time in two buffers
// by turns. For 16-bit activations: with the parts that float32 needs, ordinary arithmetic is as quick.
//
// Hazard: as in slstm_step.cuh, y_next must never be y_prev. c, n and m may be updated in place.
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/slstm_operands.cuh"
#include "cells/cuda/slstm_step.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

// The warps of a block are two by four. Each multiplies kRowTiles by kGateTiles operands: 16 rows are the two parts of
// y of 8 batch rows; 8 columns are the rows of R for two gates of one unit of every lane % 4. So a lane gets all gates
// of two neighbouring units.
struct SlstmBatch {
  static constexpr int kRowTiles = 2, kGateTiles = 4;
  static constexpr int kWarpRows = 8 * kRowTiles, kRows = 4 * kWarpRows;
  static constexpr int kWarpUnits = 8 * kGateTiles / kGates, kUnits = 2 * kWarpUnits;
  static constexpr int kDepth = 64;
  static constexpr int kPitch = kDepth + 4;  // of a row of y, 4 bytes an input: 16-byte loads meet no bank twice
};

// Whether the kernel below can work on these sizes and pointers.
inline bool fits_batch(const SlstmArgs& args, const float* y_prev, const float* y_next) {
  const void* const pairs[] = {args.b, args.c_in, args.n_in, args.m_in, y_next, args.c_out, args.n_out, args.m_out};
  bool aligned =
      is_aligned(args.R, 16) && is_aligned(y_prev, 16) && is_aligned(args.x, 4) && is_aligned(args.hidden, 4);
  for (const void* pair : pairs) aligned = aligned && is_aligned(pair, 2 * sizeof(float));
  return aligned && args.dim % 8 == 0;
}

// Brings what lies at an address into the second-level cache, long before it is read.
__device__ __forceinline__ void prefetch(const void* address) {
#if defined(__CUDACC__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#else
  (void)address;
#endif
}

// The state inputs of `args` are those at `position`, with y in y_prev and y_next. Grid: row tiles, unit tiles, heads.
template <typename T, typename RecurrentT>
__global__ void __launch_bounds__(kSlstmThreads, SlstmParts<T, RecurrentT>::kWeights == 1 ? 2 : 1)
    slstm_batch_kernel([[maybe_unused]] const SlstmArgs args, [[maybe_unused]] const float* y_prev,
                       [[maybe_unused]] float* y_next, [[maybe_unused]] const int64_t position) {
#if __CUDA_ARCH__ >= 800
  using Batch = SlstmBatch;
  using Parts = SlstmParts<T, RecurrentT>;
  static_assert(Parts::kInputs == 2);
  constexpr int kRowTiles = Batch::kRowTiles, kGateTiles = Batch::kGateTiles, kSlabs = Batch::kDepth / kSlstmSlab;
  // Two neighbouring inputs of a row are two words, one for each part.
  __align__(16) __shared__ uint32_t y[2][Batch::kRows][Batch::kPitch];

  const int DH = static_cast<int>(args.dim), rows = static_cast<int>(args.batch);
  const int64_t head = blockIdx.z, stride = args.heads * DH;
  const int first_row = static_cast<int>(blockIdx.x) * Batch::kRows;
  const int first_unit = static_cast<int>(blockIdx.y) * Batch::kUnits;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize, quad = lane % 4;
  const int warp_row = warp / 2 * Batch::kWarpRows;                  // of the block's
  const int warp_unit = first_unit + warp % 2 * Batch::kWarpUnits;   // of the head's
  const bool works = first_row + warp_row < rows && warp_unit < DH;  // its units exist all or none
  const RecurrentT* const R = static_cast<const RecurrentT*>(args.R) + head * kGates * DH * DH;

  // R, x and the states come from afar while y is split. A hint fetches 32 bytes at least.
  {
    constexpr int kSector = 32;
    const int row = threadIdx.x / 4, part = threadIdx.x % 4, unit = first_unit + row % Batch::kUnits;
    const char* const weights = reinterpret_cast<const char*>(R + (int64_t{row / Batch::kUnits} * DH + unit) * DH);
    for (int byte = part * kSector; unit < DH && byte < DH * static_cast<int>(sizeof(RecurrentT));
         byte += 4 * kSector) {
      prefetch(weights + byte);
    }
    if (first_row + row < rows) {
      const int64_t token = ((first_row + row) * args.sequence + position) * kGates + part;
      prefetch(static_cast<const T*>(args.x) + token * stride + head * DH + first_unit);
      const float* const state = part == 0 ? args.c_in : part == 1 ? args.n_in : part == 2 ? args.m_in : y_prev;
      const float* const own = state + (first_row + row) * stride + head * DH + first_unit;
      prefetch(own);
      if (first_unit + Batch::kWarpUnits < DH) prefetch(own + Batch::kWarpUnits);
    }
  }

  // A thread splits four inputs of every kStagedRows-th row; a row that does not exist is a copy of the last one, whose
  // sums nobody takes.
  constexpr int kRowThreads = Batch::kDepth / 4, kStagedRows = kSlstmThreads / kRowThreads;
  constexpr int kStaged = Batch::kRows / kStagedRows;
  const int staged_row = threadIdx.x / kRowThreads;
  int staged_in = threadIdx.x % kRowThreads * 4;
  const float* y_from[kStaged];
#pragma unroll
  for (int i = 0; i < kStaged; ++i) {
    y_from[i] = y_prev + min(first_row + staged_row + i * kStagedRows, rows - 1) * stride + head * DH + staged_in;
  }
  Vector<float, 4> staged[kStaged];
  const auto load_y = [&] {
#pragma unroll
    for (int i = 0; i < kStaged; ++i) {
      staged[i] = {};
      if (staged_in < DH) staged[i] = load_vector<4>(y_from[i]);
      y_from[i] += Batch::kDepth;
    }
    staged_in += Batch::kDepth;
  };
  const auto store_y = [&](int buffer) {
#pragma unroll
    for (int i = 0; i < kStaged; ++i) {
      const float (&in)[4] = staged[i].values;
      uint32_t first[2], second[2];  // parts
      split(in[0], in[1], first);
      split(in[2], in[3], second);
      uint32_t* const to = &y[buffer][staged_row + i * kStagedRows][threadIdx.x % kRowThreads * 4];
      store_vector<4>(to, {first[0], first[1], second[0], second[1]});
    }
  };
  // Column c of tile t is of unit c / 2 * 2 + t / 2 and gate t % 2 * 2 + c % 2. Past the end of a row there are zeros
  // in y, so what was loaded last will do.
  const int own_unit = warp_unit + lane / 8 * 2, own_gate = lane / 4 % 2;
  int weights_in = quad * 8;
  const RecurrentT* weights_from[kGateTiles];
  Eight<RecurrentT> weights[kSlabs][kGateTiles] = {};
#pragma unroll
  for (int tile = 0; tile < kGateTiles; ++tile) {
    weights_from[tile] = R + (int64_t{own_gate + tile % 2 * 2} * DH + own_unit + tile / 2) * DH + weights_in;
  }
  const auto load_weights = [&](int slab) {
#pragma unroll
    for (int tile = 0; tile < kGateTiles; ++tile) {
      if (weights_in < DH) weights[slab][tile] = load_eight(weights_from[tile]);
      weights_from[tile] += kSlstmSlab;
    }
    weights_in += kSlstmSlab;
  };

  float sums[kRowTiles][kGateTiles][4] = {};
  load_y();
  if (works) {
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) load_weights(slab);
  }
  store_y(0);
  __syncthreads();
  for (int depth = 0, buffer = 0; depth < DH; depth += Batch::kDepth, buffer ^= 1) {
    load_y();
    if (works) {
#pragma unroll
      for (int slab = 0; slab < kSlabs; ++slab) {
        uint32_t parts[kGateTiles][Parts::kWeights][4];
#pragma unroll
        for (int tile = 0; tile < kGateTiles; ++tile) split_eight(weights[slab][tile], parts[tile]);
#pragma unroll
        for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
          const uint32_t* const own = y[buffer][warp_row + row_tile * 8 + lane / 4] + slab * kSlstmSlab + quad * 8;
#pragma unroll
          for (int product = 0; product < 2; ++product) {
            const Vector<uint32_t, 4> inputs = load_vector<4>(own + 4 * product);
#pragma unroll
            for (int part = 0; part < Parts::kWeights; ++part) {
              uint32_t columns[kGateTiles][2];
#pragma unroll
              for (int tile = 0; tile < kGateTiles; ++tile) {
                columns[tile][0] = parts[tile][part][2 * product];
                columns[tile][1] = parts[tile][part][2 * product + 1];
              }
              multiply_add<__nv_bfloat16>(sums[row_tile], inputs.values, columns);
            }
          }
        }
        load_weights(slab);
      }
    }
    store_y(1 - buffer);
    __syncthreads();
  }
  if (!works) return;

  // Two neighbouring units of a row for every tile of rows.
  const int unit = warp_unit + 2 * quad;
  Vector<float, 2> bias[kGates];
#pragma unroll
  for (int gate = 0; gate < kGates; ++gate) {
    bias[gate] = load_vector<2>(args.b + (gate * args.heads + head) * DH + unit);
  }
#pragma unroll
  for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
    const int row = first_row + warp_row + row_tile * 8 + lane / 4;
    if (row >= rows) break;
    const int64_t element = row * stride + head * DH + unit, token = row * args.sequence + position;
    const bool active = position < row_length(args.lengths, row, args.sequence);
    Vector<float, 2> next_y = load_vector<2>(y_prev + element), next_c = load_vector<2>(args.c_in + element),
                     next_n = load_vector<2>(args.n_in + element), next_m = load_vector<2>(args.m_in + element);
    Vector<T, 2> hidden = {from_float<T>(0.0f), from_float<T>(0.0f)};
    if (active) {
      Vector<T, 2> x[kGates];
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        x[gate] = load_vector<2>(static_cast<const T*>(args.x) + (token * kGates + gate) * stride + head * DH + unit);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const auto raw = [&](int gate) {
          const float (&sum)[4] = sums[row_tile][2 * j + gate / 2];
          return to_float(x[gate].values[j]) + bias[gate].values[j] + (sum[gate % 2] + sum[gate % 2 + 2]);
        };
        const SlstmState<float> old{0.0f, next_c.values[j], next_n.values[j], next_m.values[j]};
        const SlstmState<float> state = slstm_pointwise(raw(0), raw(1), raw(2), raw(3), old, args.forget_clamp);
        next_y.values[j] = state.y;
        next_c.values[j] = state.c;
        next_n.values[j] = state.n;
        next_m.values[j] = state.m;
        hidden.values[j] = from_float<T>(state.y);
      }
    }
    store_vector<2>(y_next + element, next_y);
    store_vector<2>(args.c_out + element, next_c);
    store_vector<2>(args.n_out + element, next_n);
    store_vector<2>(args.m_out + element, next_m);
    store_vector<2>(static_cast<T*>(args.hidden) + token * stride + head * DH + unit, hidden);
  }
#endif
}

}  // namespace xlstm::cuda
