// mLSTM cell over a sequence, in chunks of kLength positions (the chunkwise form of Beck et al. 2025): the recurrence
// inside a chunk as products of matrices, from chunk to chunk as in the step kernel.
//
// A block owns kColumns columns of one head's C with all its rows, kept in shared memory from the first position to the
// last, so C crosses global memory once each way and blocks need nothing from each other. For one chunk, with D_ts the
// logarithm of what is left at position t of the input at position s:
//   scores  P_ts = (q_scale q_t . k_scale k_s) exp(D_ts - m_t), s <= t
//   output  h_t  = (exp(g_t - m_t) C^T q_scale q_t + sum_s P_ts v_s) / normaliser(exp(g_t - m_t) n . q_scale q_t +
//   sum_s P_ts) state   C'   = exp(g_e - m_e) C + sum_s k_s (exp(D_es - m_e) k_scale v_s)^T, e the chunk's last
//   position; the same for n
// Q and K pass through shared memory in slabs of kSlab columns; one pass serves the scores, C^T q and the update of C.
//
// Numerics: m_t is the step kernel's recurrence. D_ts = D_(t-1)s + log f_t and g_t = g_(t-1) + log f_t with D_ss = log
// i_s and g_(-1) = m are the same additions that m_t is the maximum of, so by the monotony of rounding no exponent is
// ever positive; differences of cumulative sums would lose all their digits after one strongly negative log f.
//
// Hazard of n and m updated in place: as in the step kernel, with mlstm_chunkwise_normaliser_kernel for the second
// launch.
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/block_products.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

constexpr int kSlab = 32;               // columns of Q and K in shared memory at a time
constexpr int kSlabStride = kSlab + 4;  // of their rows; multiples of 4 that spread rows over the banks

__host__ __device__ constexpr int chunk_threads(int length) { return 4 * length; }

// What a block keeps in shared memory, in floats from its beginning; every part is a multiple of 8 floats long.
template <int kChunkLength, int kTileColumns>
struct ChunkLayout {
  static constexpr int kLength = kChunkLength, kColumns = kTileColumns;
  static constexpr int kValueStride = kColumns + 4, kScoreStride = kLength + 4;
  static constexpr int kGates = 0;                                 // ChunkGates
  static constexpr int kQueries = 5 * kLength;                     // kLength x kSlabStride
  static constexpr int kKeys = kQueries + kLength * kSlabStride;   // the same
  static constexpr int kScores = kQueries;                         // kLength x kScoreStride, once Q and K are used up
  static constexpr int kWeighted = kKeys + kLength * kSlabStride;  // kLength x kValueStride: weighted V, then C^T q
  static constexpr int kValues = kWeighted + kLength * kValueStride;  // the same: partial sums of n, then V, then P V
  static constexpr int kState = kValues + kLength * kValueStride;     // C: padded DK x kValueStride; then n: padded DK
  static_assert(kScoreStride <= 2 * kSlabStride && kLength / 8 * kSlab <= kLength * kValueStride);

  static __host__ __device__ constexpr int64_t padded(int64_t dim_qk) {
    return ceil_div<int64_t>(dim_qk, kSlab) * kSlab;
  }
  static constexpr int64_t bytes(int64_t dim_qk) {
    return static_cast<int64_t>(sizeof(float)) * (kState + padded(dim_qk) * (kValueStride + 1));
  }
};

// The gates of a chunk, one value for each position, in shared memory.
struct ChunkGates {
  float* log_input;   // log i_t
  float* log_forget;  // log f_t
  float* m;           // m_t
  float* carry;       // exp(g_t - m_t): what is left of the state before the chunk
  float* gain;        // k_scale exp(D_et - m_e): the weight of k_t in the state after the chunk; 0 beyond it

  __device__ ChunkGates(float* memory, int length)
      : log_input(memory),
        log_forget(memory + length),
        m(memory + 2 * length),
        carry(memory + 3 * length),
        gain(memory + 4 * length) {}
};

// Fills `gates` for the `valid` positions from `token` on, m being the stabiliser before them. The caller has a barrier
// behind it since the last use of log_input and log_forget, and needs one before it reads carry and gain.
template <typename T, int kLength>
__device__ void compute_chunk_gates(const MlstmArgs& args, int64_t token, int valid, float m, const ChunkGates& gates) {
  const int t = threadIdx.x;
  if (t < valid) {
    const int64_t gate = token + t * args.heads;
    gates.log_input[t] = soft_cap(to_float(static_cast<const T*>(args.i)[gate]), args.gate_soft_cap);
    gates.log_forget[t] = log_sigmoid(soft_cap(to_float(static_cast<const T*>(args.f)[gate]), args.gate_soft_cap));
  }
  __syncthreads();
  // The three recurrences side by side: D to the chunk's end by a thread for every position, m and g by one thread
  // each.
  float log_gain = 0.0f;
  if (t < kLength) {
    if (t < valid) log_gain = gates.log_input[t];
    for (int u = 1; u < valid; ++u) {
      if (u > t) log_gain += gates.log_forget[u];
    }
  } else if (t == kLength) {
    for (int u = 0; u < valid; ++u) gates.m[u] = m = maximum(gates.log_forget[u] + m, gates.log_input[u]);
  } else if (t == 2 * kLength) {
    float g = m;
    for (int u = 0; u < valid; ++u) gates.carry[u] = g += gates.log_forget[u];
  }
  __syncthreads();
  if (t < kLength) {
    gates.gain[t] = t < valid ? args.k_scale * std::exp(log_gain - gates.m[valid - 1]) : 0.0f;
    if (t < valid) gates.carry[t] = std::exp(gates.carry[t] - gates.m[t]);
  }
}

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
// 4, and q, k, v and both C are aligned to four of their elements. C is stored as M.
template <typename T, typename M, int kLength, int kColumns>
__global__ void __launch_bounds__(chunk_threads(kLength))
    mlstm_chunkwise_kernel(const MlstmArgs args, const bool vectorised, const bool store_normaliser) {
  using Layout = ChunkLayout<kLength, kColumns>;
  constexpr int kThreads = chunk_threads(kLength);
  constexpr int kValueStride = Layout::kValueStride, kScoreStride = Layout::kScoreStride;
  constexpr int kRowThreads = kThreads / kLength;  // threads that sum up one position
  XLSTM_DYNAMIC_SHARED(float, shared);
  float* const queries = shared + Layout::kQueries;
  float* const keys = shared + Layout::kKeys;
  float* const scores = shared + Layout::kScores;
  float* const weighted = shared + Layout::kWeighted;
  float* const values = shared + Layout::kValues;
  float* const C = shared + Layout::kState;
  const ChunkGates gates(shared + Layout::kGates, kLength);
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

  const M* const C_in = static_cast<const M*>(args.C_in) + head * DK * DV + first_column;
  for (int first = 0; first < padded; first += kSlab) {
    Transfer<M, kSlab, kColumns, kThreads> rows;
    rows.fetch(C_in + first * DV, DV, DK - first, columns, vectorised);
    rows.store(C + first * kValueStride, kValueStride);
  }
  for (int row = thread; row < padded; row += kThreads) n[row] = row < DK ? args.n_in[head * DK + row] : 0.0f;
  float m = args.m_in[head];

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
    compute_chunk_gates<T, kLength>(args, token, valid, m, gates);
    __syncthreads();
    m = gates.m[valid - 1];
    const float decay = gates.carry[valid - 1];
    v.store(weighted, kValueStride, [&](int row) { return gates.gain[row]; });
    store_slab();
    __syncthreads();

    ProductTile<T, kLength, kLength, kThreads> score_sums;
    ProductTile<T, kLength, kColumns, kThreads> carried_sums;
    float n_dot_q = 0.0f;  // this thread's part for position sum_row
    for (int slab = 0; slab < padded; slab += kSlab) {
      float* const C_slab = C + slab * kValueStride;
      if (slab + kSlab < padded) fetch_slab(slab + kSlab);
      const Operand<false, true> q_slab{queries, kSlabStride};
      score_sums.multiply(q_slab, Operand<true, true>{keys, kSlabStride}, kSlab);
      carried_sums.multiply(q_slab, Operand<false, false>{C_slab, kValueStride}, kSlab);
      ProductTile<T, kSlab, kColumns, kThreads> state;
      state.load(C_slab, kValueStride);
      state.scale(decay);
      state.multiply(Operand<true, true>{keys, kSlabStride}, Operand<false, false>{weighted, kValueStride}, kLength);
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

    // The decay of input s down the positions; every kRowThreads-th of them is this thread's to apply.
    {
      const int s = thread % kLength, part = thread / kLength;
      const float scale = args.q_scale * args.k_scale;
      float log_decay = s < valid ? gates.log_input[s] : 0.0f;
      for (int t = 0; t < valid; ++t) {
        if (t > s) log_decay += gates.log_forget[t];
        if (t % kRowThreads != part) continue;
        float& score = scores[t * kScoreStride + s];
        score = s <= t ? score * scale * std::exp(log_decay - gates.m[t]) : 0.0f;
      }
    }
    __syncthreads();

    float dot = 0.0f;
    for (int s = sum_part; s < kLength; s += kRowThreads) dot += scores[sum_row * kScoreStride + s];
    if (sum_row < valid) dot += gates.carry[sum_row] * (args.q_scale * n_dot_q);
#pragma unroll
    for (int offset = 1; offset < kRowThreads; offset *= 2) dot += __shfl_xor_sync(kFullWarp, dot, offset);
    if (sum_part == 0 && sum_row < valid) norm[sum_row] = mlstm_normaliser(dot, gates.m[sum_row], args.eps);
    ProductTile<T, kLength, kColumns, kThreads> output_sums;
    output_sums.multiply(Operand<false, false>{scores, kScoreStride}, Operand<false, true>{values, kValueStride},
                         kLength);
    __syncthreads();
    output_sums.store(values, kValueStride);
    __syncthreads();
    for (int index = thread; index < valid * kColumns; index += kThreads) {
      const int t = index / kColumns, column = index % kColumns;
      if (column >= columns) continue;
      const int at = t * kValueStride + column;
      const float numerator = gates.carry[t] * (args.q_scale * weighted[at]) + values[at];
      h[(token + t * args.heads) * DV + column] = from_float<T>(numerator / norm[t]);
    }
  }

  for (int64_t index = thread; index < (args.sequence - length) * kColumns; index += kThreads) {
    const int64_t position = length + index / kColumns, column = index % kColumns;
    if (column < columns) h[(row_token + position * args.heads) * DV + column] = from_float<T>(0.0f);
  }
  // C is complete since a barrier of the last chunk; without one every thread writes what it has read itself.
  M* const C_out = static_cast<M*>(args.C_out) + head * DK * DV + first_column;
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
  if (!store_normaliser || first_column != 0) return;
  for (int row = thread; row < DK; row += kThreads) args.n_out[head * DK + row] = n[row];
  // All threads have read m_in: a row that advanced has passed a barrier, an idle one leaves m as it is.
  if (thread == 0 && (length > 0 || args.m_in != args.m_out)) args.m_out[head] = m;
}

// n and m of every head, for updates in place. Grid: batch * heads.
template <typename T, int kLength>
__global__ void __launch_bounds__(chunk_threads(kLength)) mlstm_chunkwise_normaliser_kernel(const MlstmArgs args) {
  constexpr int kThreads = chunk_threads(kLength);
  __shared__ float memory[5 * kLength];
  const ChunkGates gates(memory, kLength);
  const int64_t DK = args.dim_qk;
  const int64_t head = blockIdx.x;
  const int64_t batch_row = head / args.heads;
  const int64_t length = row_length(args.lengths, batch_row, args.sequence);
  const int64_t row_token = batch_row * args.sequence * args.heads + head % args.heads;
  const float* n_read = args.n_in + head * DK;
  float* const n_write = args.n_out + head * DK;
  float m = args.m_in[head];

  if (length == 0) {
    if (args.n_in != args.n_out) {
      for (int64_t row = threadIdx.x; row < DK; row += kThreads) n_write[row] = n_read[row];
    }
    if (threadIdx.x == 0 && args.m_in != args.m_out) args.m_out[head] = m;
    return;
  }
  for (int64_t first = 0; first < length; first += kLength) {
    const int valid = static_cast<int>(length - first < kLength ? length - first : kLength);
    const int64_t token = row_token + first * args.heads;
    T keys[kLength];  // of one row of n; the first ones fly while the gates are computed
    const auto load_keys = [&](int64_t row) {
      const T* k = static_cast<const T*>(args.k) + token * DK + row;
      const int present = row < DK ? valid : 0;
#pragma unroll
      for (int t = 0; t < kLength; ++t, k += args.heads * DK) keys[t] = t < present ? *k : from_float<T>(0.0f);
    };
    load_keys(threadIdx.x);
    compute_chunk_gates<T, kLength>(args, token, valid, m, gates);
    __syncthreads();
    m = gates.m[valid - 1];
    const float decay = gates.carry[valid - 1];
    for (int64_t row = threadIdx.x; row < DK; row += kThreads) {
      float sum = decay * n_read[row];
#pragma unroll
      for (int t = 0; t < kLength; ++t) sum += gates.gain[t] * to_float(keys[t]);
      n_write[row] = sum;
      if (row + kThreads < DK) load_keys(row + kThreads);
    }
    n_read = n_write;
  }
  if (threadIdx.x == 0) args.m_out[head] = m;
}

}  // namespace xlstm::cuda
