// mLSTM cell over a sequence in float32 arithmetic, in chunks of kLength positions (the chunkwise form of Beck et al.
// 2025): the recurrence inside a chunk as products of matrices, from chunk to chunk as in the step kernel. For float32
// activations, and for those of 16 bits where the tensor cores lack what mlstm_tensor.cuh needs.
//
// A block owns kColumns columns of one head's C with all its rows, kept in shared memory from the first position to the
// last, so C crosses global memory once each way and blocks need nothing from each other. For one chunk, with D_ts and
// the gates as in chunk_gates.cuh:
//   scores  P_ts = (q_scale q_t . k_scale k_s) exp(D_ts - m_t), s <= t
//   output  h_t  = (carry_t C^T q_t + sum over s of P_ts v_s) / normaliser(carry_t n . q_t + sum over s of P_ts)
//   state   C'   = decay C + sum over s of k_s (gain_s v_s)^T; the same for n
// Q and K pass through shared memory in slabs of kSlab columns; one pass serves the scores, C^T q and the update of C.
//
// Hazard of n and m updated in place: other blocks of the head may have yet to read them, so they are then left to
// mlstm_sequence_normaliser.cuh.
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/block_products.cuh"
#include "cells/cuda/chunk_gates.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

__host__ __device__ constexpr int chunk_threads(int length) { return 4 * length; }
// Blocks of a multiprocessor that there are registers for.
__host__ __device__ constexpr int resident_chunks(int length, int columns) {
  return columns == 64 ? 1 : (length == 64 ? 2 : 4);
}

// What a block keeps in shared memory, in floats from its beginning; every part is a multiple of 4 floats long.
template <int kChunkLength, int kTileColumns>
struct ChunkLayout {
  static constexpr int kLength = kChunkLength, kColumns = kTileColumns;
  static constexpr int kSlab = 32;               // columns of Q and K in shared memory at a time
  static constexpr int kSlabStride = kSlab + 4;  // of their rows: spreads them over the banks
  static constexpr int kValueStride = kColumns + 4, kScoreStride = kLength + 4;
  static constexpr int kQueries = sizeof(ChunkGates<kLength>) / sizeof(float);  // kLength x kSlabStride
  static constexpr int kKeys = kQueries + kLength * kSlabStride;                // the same
  static constexpr int kScores = kQueries;                         // kLength x kScoreStride, once Q and K are used up
  static constexpr int kWeighted = kKeys + kLength * kSlabStride;  // kLength x kValueStride: weighted V, then C^T q
  static constexpr int kValues = kWeighted + kLength * kValueStride;  // the same: partial sums of n, then V, then P V
  static constexpr int kState = kValues + kLength * kValueStride;     // C: padded DK x kValueStride; then n: padded DK
  static_assert(kQueries % 4 == 0 && kScoreStride <= 2 * kSlabStride && kLength / 8 * kSlab <= kLength * kValueStride);

  static __host__ __device__ constexpr int64_t padded(int64_t dim_qk) {
    return ceil_div<int64_t>(dim_qk, kSlab) * kSlab;
  }
  static constexpr int64_t bytes(int64_t dim_qk) {
    return static_cast<int64_t>(sizeof(float)) * (kState + padded(dim_qk) * (kValueStride + 1));
  }
};

// A matrix of kRows x kWidth elements on its way from global to shared memory, in the registers of the block's threads.
template <typename T, int kRows, int kWidth, int kThreads>
class Transfer {
  static constexpr int kVector = 4, kRowVectors = kWidth / kVector;
  static constexpr int kCount = kRows * kRowVectors / kThreads;  // vectors of a thread
  static_assert(kCount * kThreads == kRows * kRowVectors);

 public:
  // Rows from `rows` on and columns from `columns` on are zero and never read. `vectorised`: `columns` is a multiple of
  // kVector and every row starts at a multiple of its size.
  __device__ __forceinline__ void fetch(const T* from, int64_t stride, int64_t rows, int64_t columns, bool vectorised) {
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      const int row = row_of(c), column = column_of(c);
      values_[c] = Vector<T, kVector>{};
      if (row >= rows) continue;
      const T* const address = from + row * stride + column;
      if (vectorised) {
        if (column < columns) values_[c] = load_vector<kVector>(address);
      } else {
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          if (column + j < columns) values_[c].values[j] = address[j];
        }
      }
    }
  }
  __device__ __forceinline__ void store(float* to, int stride) const {
    store(to, stride, [](int) { return 1.0f; });
  }
  // Every row times weight(row).
  template <typename Weight>
  __device__ __forceinline__ void store(float* to, int stride, Weight&& weight) const {
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      Vector<float, kVector> result;
#pragma unroll
      for (int j = 0; j < kVector; ++j) result.values[j] = weight(row_of(c)) * to_float(values_[c].values[j]);
      store_vector(to + row_of(c) * stride + column_of(c), result);
    }
  }

 private:
  static __device__ __forceinline__ int row_of(int c) {
    return (c * kThreads + static_cast<int>(threadIdx.x)) / kRowVectors;
  }
  static __device__ __forceinline__ int column_of(int c) {
    return (c * kThreads + static_cast<int>(threadIdx.x)) % kRowVectors * kVector;
  }

  Vector<T, kVector> values_[kCount];
};

// Grid: batch * heads * tiles of C; dynamic shared memory: ChunkLayout::bytes. `vectorised`: DK and DV are multiples of
// 4, and q, k, v and both C are aligned to four of their elements.
template <typename T, int kLength, int kColumns>
__device__ __forceinline__ void run_chunks(const MlstmArgs& args, bool vectorised, bool store_normaliser) {
  using Layout = ChunkLayout<kLength, kColumns>;
  constexpr int kThreads = chunk_threads(kLength);
  constexpr int kSlab = Layout::kSlab, kSlabStride = Layout::kSlabStride;
  constexpr int kValueStride = Layout::kValueStride, kScoreStride = Layout::kScoreStride;
  constexpr int kRowThreads = kThreads / kLength;  // threads that sum up one position
  XLSTM_DYNAMIC_SHARED(float, shared);
  float* const queries = shared + Layout::kQueries;
  float* const keys = shared + Layout::kKeys;
  float* const scores = shared + Layout::kScores;
  float* const weighted = shared + Layout::kWeighted;
  float* const values = shared + Layout::kValues;
  float* const C = shared + Layout::kState;
  ChunkGates<kLength>& gates = *reinterpret_cast<ChunkGates<kLength>*>(shared);
  float* const norm = gates.gain;  // which is used up by then

  const int64_t DK = args.dim_qk, DV = args.dim_v;
  const int padded = static_cast<int>(Layout::padded(DK));
  float* const n = C + padded * kValueStride;
  const unsigned tiles = static_cast<unsigned>(ceil_div<int64_t>(DV, kColumns));
  const int64_t head = blockIdx.x / tiles;  // of batch * heads
  const int64_t first_column = blockIdx.x % tiles * int64_t{kColumns};
  const int64_t columns = DV - first_column < kColumns ? DV - first_column : kColumns;
  const int64_t batch_row = head / args.heads;
  const int64_t length = row_length(args.lengths, batch_row, args.sequence);
  const int64_t row_token = batch_row * args.sequence * args.heads + head % args.heads;
  T* const h = static_cast<T*>(args.h) + first_column;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int sum_row = thread / kRowThreads, sum_part = thread % kRowThreads;

  const int64_t C_offset = head * DK * DV + first_column;
  with_type(args.memory_type, [&](auto example) {
    using M = decltype(example);
    const M* const C_in = static_cast<const M*>(args.C_in) + C_offset;
    for (int first = 0; first < padded; first += kSlab) {
      Transfer<M, kSlab, kColumns, kThreads> rows;
      rows.fetch(C_in + first * DV, DV, DK - first, columns, vectorised);
      rows.store(C + first * kValueStride, kValueStride);
    }
  });
  for (int row = thread; row < padded; row += kThreads) n[row] = row < DK ? args.n_in[head * DK + row] : 0.0f;
  GateLane<kLength> gate_lane;  // of the first warp
  gate_lane.begin(args.m_in[head]);

  for (int64_t first = 0; first < length; first += kLength) {
    const int valid = static_cast<int>(length - first < kLength ? length - first : kLength);
    const int64_t token = row_token + first * args.heads;
    const T* const q = static_cast<const T*>(args.q) + token * DK;
    const T* const k = static_cast<const T*>(args.k) + token * DK;
    Transfer<T, kLength, kSlab, kThreads> next_q, next_k;
    const auto fetch_slab = [&](int column) {
      next_q.fetch(q + column, args.heads * DK, valid, DK - column, vectorised);
      next_k.fetch(k + column, args.heads * DK, valid, DK - column, vectorised);
    };
    const auto store_slab = [&] {
      next_q.store(queries, kSlabStride);
      next_k.store(keys, kSlabStride);
    };
    Transfer<T, kLength, kColumns, kThreads> v;
    const auto fetch_values = [&] {
      v.fetch(static_cast<const T*>(args.v) + token * DV + first_column, args.heads * DV, valid, columns, vectorised);
    };

    fetch_slab(0);
    fetch_values();
    GateInputs<T, kLength> gate_inputs;
    if (warp == 0) gate_inputs.fetch(args, token, valid);
    __syncthreads();
    if (warp == 0) gate_lane.compute(args, gate_inputs, valid, gates);
    __syncthreads();
    const float decay = gates.decay;
    v.store(weighted, kValueStride, [&](int row) { return gates.gain[row]; });
    store_slab();
    __syncthreads();

    ProductTile<kLength, kLength, kThreads> score_sums;
    ProductTile<kLength, kColumns, kThreads> carried_sums;
    float n_dot_q = 0.0f;  // this thread's part for position sum_row
    for (int slab = 0; slab < padded; slab += kSlab) {
      float* const C_slab = C + slab * kValueStride;
      if (slab + kSlab < padded) fetch_slab(slab + kSlab);
      const Operand<false> q_slab{queries, kSlabStride};
      score_sums.multiply(q_slab, Operand<true>{keys, kSlabStride}, kSlab);
      carried_sums.multiply(q_slab, Operand<false>{C_slab, kValueStride}, kSlab);
      ProductTile<kSlab, kColumns, kThreads> state;
      state.load(C_slab, kValueStride);
      state.scale(decay);
      state.multiply(Operand<true>{keys, kSlabStride}, Operand<false>{weighted, kValueStride}, kLength);
#pragma unroll
      for (int j = sum_part; j < kSlab; j += kRowThreads) n_dot_q += queries[sum_row * kSlabStride + j] * n[slab + j];
      float n_part = 0.0f;  // of column `lane`, over the kWarpSize / kRowThreads positions of this warp
#pragma unroll
      for (int t = thread / kWarpSize * (kWarpSize / kRowThreads), end = t + kWarpSize / kRowThreads; t < end; ++t) {
        n_part += gates.gain[t] * keys[t * kSlabStride + lane];
      }
      values[warp * kSlab + lane] = n_part;
      __syncthreads();
      state.store(C_slab, kValueStride);
      if (thread < kSlab) {
        float sum = decay * n[slab + thread];
#pragma unroll
        for (int w = 0; w < kThreads / kWarpSize; ++w) sum += values[w * kSlab + thread];
        n[slab + thread] = sum;
      }
      if (slab + kSlab < padded) store_slab();
      __syncthreads();
    }

    fetch_values();
    score_sums.store(scores, kScoreStride);
    carried_sums.store(weighted, kValueStride);
    v.store(values, kValueStride);
    __syncthreads();

    for (int index = thread; index < kLength * kLength; index += kThreads) {
      const int t = index / kLength, s = index % kLength;
      float& score = scores[t * kScoreStride + s];
      const bool counts = s <= t && t < valid;
      score = counts ? score * (args.q_scale * args.k_scale) * chunk_weight(gates.reach[t], gates.origin[s]) : 0.0f;
    }
    __syncthreads();

    float dot = 0.0f;
    for (int s = sum_part; s < kLength; s += kRowThreads) dot += scores[sum_row * kScoreStride + s];
    if (sum_row < valid) dot += gates.carry[sum_row] * n_dot_q;
#pragma unroll
    for (int offset = 1; offset < kRowThreads; offset *= 2) dot += __shfl_xor_sync(kFullWarp, dot, offset);
    if (sum_part == 0 && sum_row < valid) norm[sum_row] = mlstm_normaliser(dot, gates.m[sum_row], args.eps);
    ProductTile<kLength, kColumns, kThreads> output_sums;
    output_sums.multiply(Operand<false>{scores, kScoreStride}, Operand<false>{values, kValueStride}, kLength);
    __syncthreads();
    output_sums.store(values, kValueStride);
    __syncthreads();
    for (int index = thread; index < valid * kColumns; index += kThreads) {
      const int t = index / kColumns, column = index % kColumns;
      if (column >= columns) continue;
      const int at = t * kValueStride + column;
      const float numerator = gates.carry[t] * weighted[at] + values[at];
      h[(token + t * args.heads) * DV + column] = from_float<T>(numerator / norm[t]);
    }
  }

  for (int64_t index = thread; index < (args.sequence - length) * kColumns; index += kThreads) {
    const int64_t position = length + index / kColumns, column = index % kColumns;
    if (column < columns) h[(row_token + position * args.heads) * DV + column] = from_float<T>(0.0f);
  }
  // C is complete since a barrier of the last chunk; without one every thread writes what it has read itself.
  with_type(args.memory_type, [&](auto example) {
    using M = decltype(example);
    M* const C_out = static_cast<M*>(args.C_out) + C_offset;
    constexpr int kRowVectors = kColumns / 4;
    for (int index = thread; index < padded * kRowVectors; index += kThreads) {
      const int row = index / kRowVectors, column = index % kRowVectors * 4;
      if (row >= DK) break;
      const Vector<float, 4> computed = load_vector<4>(C + row * kValueStride + column);
      Vector<M, 4> part;
#pragma unroll
      for (int j = 0; j < 4; ++j) part.values[j] = from_float<M>(computed.values[j]);
      if (vectorised) {
        if (column < columns) store_vector(C_out + row * DV + column, part);
        continue;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (column + j < columns) C_out[row * DV + column + j] = part.values[j];
      }
    }
  });
  if (!store_normaliser || first_column != 0) return;
  for (int row = thread; row < DK; row += kThreads) args.n_out[head * DK + row] = n[row];
  if (thread == 0) args.m_out[head] = gate_lane.stabiliser();
}

template <typename T, int kLength, int kColumns>
__global__ void __launch_bounds__(chunk_threads(kLength), resident_chunks(kLength, kColumns))
    mlstm_chunkwise_kernel(const MlstmArgs args, const bool vectorised, const bool store_normaliser) {
#if __CUDA_ARCH__ >= 800
  constexpr bool kCompiled = sizeof(T) == sizeof(float);  // the others have mlstm_tensor.cuh
#else
  constexpr bool kCompiled = true;
#endif
  if constexpr (kCompiled) run_chunks<T, kLength, kColumns>(args, vectorised, store_normaliser);
}

}  // namespace xlstm::cuda
