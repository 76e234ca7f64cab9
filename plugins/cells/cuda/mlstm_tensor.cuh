// mLSTM cell over a sequence of 16-bit activations, in chunks of kChunk positions (the chunkwise form of Beck et al.
// 2025), on the tensor cores of sm_80 and later: the recurrence inside a chunk as products of matrices, from chunk to
// chunk as in the step kernel.
//
// A block owns kColumns columns of one head's C with all its rows. They stay in its threads' registers from the first
// position to the last (mlstm_state_tile.cuh): C crosses global memory once each way, and blocks need nothing from each
// other. For one chunk, with D_ts and the gates as in chunk_gates.cuh:
//   scores  P_ts = (q_scale q_t . k_scale k_s) exp(D_ts - m_t), s <= t
//   output  h_t  = (carry_t C^T q_t + sum over s of P_ts v_s) / normaliser(carry_t n . q_t + sum over s of P_ts)
//   state   C'   = decay C + sum over s of k_s (gain_s v_s)^T; the same for n
// q, k and v have 16 bits and are exact operands; C, P and the weighted v go through as two bf16 each
// (split_operands.cuh), n and its gains as three, which is all of a float.
//
// Q and K pass through shared memory in slabs of kSlab columns. One pass serves the scores, C^T q and the update of C:
// while a slab is worked on, the next one is on its way, and the operand for its C^T q, two bf16 of the slab's rows of
// C, is written. So what a block needs of shared memory does not depend on DK.
//
// Hazard of n and m updated in place: other blocks of the head may have yet to read them, so they are then left to
// mlstm_sequence_normaliser.cuh.
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/mlstm_state_tile.cuh"

namespace xlstm::cuda {

// kChunk rows into shared memory, of which the first `rows` are there, and of them the first `columns` elements; the
// rest is zero and never read. A thread has the same piece of every kRowStep-th row.
template <bool kVectors, int kColumns, typename T>
__device__ __forceinline__ void copy_rows(SharedMatrix<kColumns> to, const T* from, int64_t stride, int rows,
                                          int columns) {
  constexpr int kPieces = kColumns / kPiece, kRowStep = kTensorThreads / kPieces;
  [[maybe_unused]] constexpr int kMost = ceil_div(kChunk, kRowStep);  // pieces of a thread
  const int first = static_cast<int>(threadIdx.x) / kPieces;
  const int column = static_cast<int>(threadIdx.x) % kPieces * kPiece;
  from += first * stride + column;
#pragma unroll(kVectors ? kMost : 1)
  for (int row = first; row < kChunk; row += kRowStep, from += kRowStep * stride) {
    if constexpr (kVectors) {
      copy_async(to.at(row, column), from, row < rows && column < columns);
    } else {
      const int present = row < rows ? columns - column : 0;
      Vector<T, kPiece> piece{};
#pragma unroll
      for (int j = 0; j < kPiece; ++j) {
        if (j < present) piece.values[j] = from[j];
      }
      store_vector(reinterpret_cast<T*>(to.at(row, column)), piece);
    }
  }
}

// What a warp sums up for its positions and its half of the columns of C, over the slabs of a chunk.
template <typename T, int kColumns>
struct ChunkSums {
  static constexpr int kOwned = TensorMemory<kColumns>::kOwned;
  float scores[2][2][4] = {};     // q_t . k_s for two blocks of kSide inputs
  float carried[kOwned][4] = {};  // C^T q_t
  float n_dot_q[1][4] = {};       // in three columns, to be added up

  // Adds a slab's products, with so many blocks of inputs: a branch at every step would keep instructions apart.
  template <int kBlocks>
  __device__ __forceinline__ void add(const WarpPlace& place, SharedMatrix<kSlab> queries, SharedMatrix<kSlab> keys,
                                      SharedMatrix<2 * kColumns> C_parts, SharedMatrix<kPiece> n_parts) {
    const int own_column = kPiece * kOwned * place.half;
    uint32_t n_operands[2][2];  // of two steps
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t q[4], q_parts[kExactParts<T>][4], C_operands[2][kOwned][2];
      queries.load_a(place.first_position, kSide * step, q);
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        uint32_t k[2][2];
        keys.load_b_transposed(kSide * (place.half + 2 * block), kSide * step, k);
        multiply_add<T>(scores[block], q, k);
      }
      split_exact<T>(q, q_parts);
      if constexpr (kOwned == 2) {
        C_parts.load_b(kSide * step, own_column, own_column + kPiece, C_operands[0]);
        C_parts.load_b(kSide * step, kColumns + own_column, kColumns + own_column + kPiece, C_operands[1]);
      } else {
        uint32_t both[2][2];
        C_parts.load_b(kSide * step, own_column, kColumns + own_column, both);
#pragma unroll
        for (int r = 0; r < 4; ++r) C_operands[r / 2][0][r % 2] = both[r / 2][r % 2];
      }
      multiply_parts(carried, q_parts, C_operands);
      if (step % 2 == 0) n_parts.load_b_below(kSide * step, 0, n_operands);
      const uint32_t n_operand[1][1][2] = {{{n_operands[step % 2][0], n_operands[step % 2][1]}}};
      multiply_parts(n_dot_q, q_parts, n_operand);
    }
  }
};

// The operands of the state's update: v_s times its gain, for the warp's columns.
template <typename T, int kColumns>
struct WeightedValues {
  static constexpr int kOwned = TensorMemory<kColumns>::kOwned;
  uint32_t parts[kSteps][2][kOwned][2];

  __device__ __forceinline__ void make(const WarpPlace& place, SharedMatrix<kColumns> values, const float* gains) {
    const int own_column = kPiece * kOwned * place.half;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t v[2][2];
      values.load_b(kSide * step, own_column, own_column + kPiece * (kOwned - 1), v);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const Vector<float, 2> weight = load_vector<2>(gains + kSide * step + r * 8 + place.column);
#pragma unroll
        for (int tile = 0; tile < kOwned; ++tile) {
          const Vector<float, 2> value = unpack<T>(v[tile][r]);
          uint32_t pair[2];
          split(weight.values[0] * value.values[0], weight.values[1] * value.values[1], pair);
          parts[step][0][tile][r] = pair[0];
          parts[step][1][tile][r] = pair[1];
        }
      }
    }
  }
};

// The products of a warp's scores, weighted, with v in all columns; and the sums of its weighted scores.
template <typename T, int kColumns>
struct ScoredValues {
  static constexpr int kOwned = TensorMemory<kColumns>::kOwned;
  float sums[kColumns / kSide][2][4] = {};
  float dot[2] = {};

  __device__ __forceinline__ void add(const WarpPlace& place, const float (&scores)[2][4], int first_input, float scale,
                                      const ChunkGates<kChunk>& gates, SharedMatrix<kColumns> values) {
    uint32_t P[2][4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int t = place.first_position + place.row + r % 2 * 8, s = first_input + place.column + r / 2 * 8;
      const Vector<FloatPair, 2> origin = load_vector<2>(gates.origin + s);
      float pair[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float score = scale * scores[r / 2][r % 2 * 2 + e];
        pair[e] = s + e <= t ? score * chunk_weight(gates.reach[t], origin.values[e]) : 0.0f;
        dot[r % 2] += pair[e];
      }
      uint32_t parts[2];
      split(pair[0], pair[1], parts);
      P[0][r] = parts[0];
      P[1][r] = parts[1];
    }
#pragma unroll
    for (int columns = 0; columns < kColumns / kSide; ++columns) {
      uint32_t v[2][2], v_parts[kExactParts<T>][2][2];
      values.load_b(first_input, kSide * columns, kSide * columns + kPiece, v);
      split_exact<T>(v, v_parts);
      multiply_parts(sums[columns], P, v_parts);
    }
  }

  // The sum of an operand's columns in a half of the tile.
  __device__ __forceinline__ float of_half(int half, int tile, int e) const {
    const float (&first)[4] = sums[tile / 2][tile % 2], (&second)[4] = sums[(kOwned + tile) / 2][(kOwned + tile) % 2];
    return half ? second[e] : first[e];
  }
};

// Grid: batch * heads * tiles of C; dynamic shared memory: TensorMemory. DK is at most kSlabs * kSlab; S, and the
// elements of one head's C, have 31 bits. `vectorised`: DK and DV are multiples of 8, and q, k, v and h are aligned to
// 16 bytes.
template <typename T, int kColumns, int kSlabs>
__global__ void __launch_bounds__(kTensorThreads, 1)
    mlstm_tensor_kernel(const MlstmArgs args, const bool vectorised, const bool store_normaliser) {
#if __CUDA_ARCH__ >= 800
  constexpr int kOwned = TensorMemory<kColumns>::kOwned;
  constexpr int kGateWarp = 7;  // which has the least of the scores
  XLSTM_DYNAMIC_SHARED(float, shared);
  TensorMemory<kColumns>& memory = *reinterpret_cast<TensorMemory<kColumns>*>(shared);

  const int DK = static_cast<int>(args.dim_qk), DV = static_cast<int>(args.dim_v);
  const int heads = static_cast<int>(args.heads), sequence = static_cast<int>(args.sequence);
  const int slabs = ceil_div(DK, kSlab);
  const BlockPlace<kColumns> block(static_cast<int>(blockIdx.x), DV);
  const int first_column = block.first_column;
  const int columns = DV - first_column < kColumns ? DV - first_column : kColumns;
  const int length = static_cast<int>(row_length(args.lengths, block.head / heads, sequence));
  const int64_t row_token = static_cast<int64_t>(block.head / heads) * sequence * heads + block.head % heads;
  T* const h = static_cast<T*>(args.h) + first_column;
  const WarpPlace place(static_cast<int>(threadIdx.x));
  const auto token_of = [&](int position) { return row_token + static_cast<int64_t>(position) * heads; };
  const auto valid_from = [&](int first) { return length - first < kChunk ? length - first : kChunk; };

  // Starts to copy a slab, with the first one the values too.
  const auto copy_slab = [&](int first, int slab, int buffer) {
    const int64_t token = token_of(first);
    const int valid = valid_from(first), column = slab * kSlab;
    const auto copy = [&](auto vectors) {
      constexpr bool kVectors = decltype(vectors)::value;
      const T* const q = static_cast<const T*>(args.q) + token * DK + column;
      const T* const k = static_cast<const T*>(args.k) + token * DK + column;
      copy_rows<kVectors>(SharedMatrix<kSlab>(memory.queries[buffer]), q, args.heads * DK, valid, DK - column);
      copy_rows<kVectors>(SharedMatrix<kSlab>(memory.keys[buffer]), k, args.heads * DK, valid, DK - column);
      if (slab > 0) return;
      const T* const v = static_cast<const T*>(args.v) + token * DV + first_column;
      const SharedMatrix<kColumns> values(memory.values[first / kChunk % 2]);
      copy_rows<kVectors>(values, v, args.heads * DV, valid, columns);
    };
    if (vectorised) {
      copy(std::true_type{});
    } else {
      copy(std::false_type{});
    }
    commit_copies();
  };

  // In the gate warp; the lanes have the stabiliser after the chunks whose gates are there.
  if (place.warp == kGateWarp) memory.gate_lanes[place.lane].lane.begin(args.m_in[block.head]);
  GateInputs<T, kChunk> gate_inputs;  // of the chunk after the next one
  constexpr int kGateSteps = GateLane<kChunk>::kSteps;
  const auto advance_gates = [&](int step, int first) {
    const int turn = first / kChunk % 2;
    GateLane<kChunk>& gate_lane = memory.gate_lanes[place.lane].lane;
    if (step == 0) {
      gate_lane.take_logarithms(gate_inputs, args.gate_soft_cap, length - first);
      gate_inputs.fetch(args, token_of(first + kChunk), length - first - kChunk);
    } else if (step == 1) {
      gate_lane.scan_sums();
    } else if (step == 2) {
      gate_lane.scan_maxima();
    } else {
      gate_lane.write(args, memory.gates[turn]);
#pragma unroll
      for (int t = 2 * place.lane; t < 2 * place.lane + 2; ++t) {
        const float gain = memory.gates[turn].gain[t];
        store_vector(memory.gain_parts[turn][t],
                     Vector<uint32_t, 4>{{row_of_parts(gain, 0), row_of_parts(gain, 2), 0u, 0u}});
      }
    }
  };

  StateTile<kColumns, kSlabs> state(args, place);
  if (length > 0) copy_slab(0, 0, 0);
  state.load();
  const int thread = static_cast<int>(threadIdx.x), column = thread % kColumns;
  for (int position = length + thread / kColumns; position < sequence; position += kTensorThreads / kColumns) {
    if (column < columns) h[token_of(position) * DV + column] = from_float<T>(0.0f);
  }
  if (length > 0) {
    state.write_parts(0, memory.C[0], memory.n[0]);
    if (place.warp == kGateWarp) {
      gate_inputs.fetch(args, row_token, length);
#pragma unroll 1
      for (int step = 0; step < kGateSteps; ++step) advance_gates(step, 0);
    }
  }

  int buffer = 0;  // of the slab
  for (int first = 0; first < length; first += kChunk) {
    const int valid = valid_from(first), turn = first / kChunk % 2, next = first + kChunk;
    const ChunkGates<kChunk>& gates = memory.gates[turn];
    const SharedMatrix<kColumns> values(memory.values[turn]);
    const bool has_outputs = place.first_position < valid;
    const int score_blocks = (place.first_position / kSide - place.half + 2) / 2;  // up to the positions' own

    ChunkSums<T, kColumns> sums;
    WeightedValues<T, kColumns> weighted;
    int gate_step = 0;  // to come, of the next chunk's gates
    for (int slab = 0; slab < slabs; ++slab, buffer ^= 1) {
      wait_copies<0>();
      __syncthreads();
      const bool last = slab + 1 == slabs;
      const int next_slab = last ? 0 : slab + 1, next_first = last ? next : first;
      if (next_first < length) copy_slab(next_first, next_slab, buffer ^ 1);
      if (place.warp == kGateWarp && next < length) {
#pragma unroll 1
        for (; gate_step < kGateSteps && (last || gate_step <= slab); ++gate_step) advance_gates(gate_step, next);
      }
      if (slab == 0) weighted.make(place, values, gates.gain);

      const SharedMatrix<kSlab> queries(memory.queries[buffer]), keys(memory.keys[buffer]);
      const SharedMatrix<2 * kColumns> C_parts(memory.C[buffer]);
      const SharedMatrix<kPiece> n_parts(memory.n[buffer]);
      if (has_outputs && score_blocks == 2) {
        sums.template add<2>(place, queries, keys, C_parts, n_parts);
      } else if (has_outputs && score_blocks == 1) {
        sums.template add<1>(place, queries, keys, C_parts, n_parts);
      } else if (has_outputs) {
        sums.template add<0>(place, queries, keys, C_parts, n_parts);
      }
      state.template update<T>(slab, keys, gates.decay, weighted.parts, SharedMatrix<kPiece>(memory.gain_parts[turn]));
      state.write_parts(next_slab, memory.C[buffer ^ 1], memory.n[buffer ^ 1]);
    }

    ScoredValues<T, kColumns> scored;
    if (has_outputs) {
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        if (block >= score_blocks) break;
        scored.add(place, sums.scores[block], kSide * (place.half + 2 * block), args.q_scale * args.k_scale, gates,
                   values);
      }
    }
    // What is the partner's, which has the same positions, goes there; what it has of one's own columns comes back.
#pragma unroll
    for (int tile = 0; tile < kOwned; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        memory.exchange[place.warp][tile * 4 + e][place.lane] = scored.of_half(1 - place.half, tile, e);
      }
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) memory.exchange[place.warp][kOwned * 4 + e][place.lane] = scored.dot[e];
    __syncthreads();
    if (!has_outputs) continue;
    const auto& received = memory.exchange[place.partner()];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int t = place.first_position + place.row + e * 8;
      float dot = scored.dot[e] + received[kOwned * 4 + e][place.lane];
      dot += gates.carry[t] * (sums.n_dot_q[0][2 * e] + sums.n_dot_q[0][2 * e + 1]);
      dot += __shfl_xor_sync(kFullWarp, dot, 1);
      dot += __shfl_xor_sync(kFullWarp, dot, 2);
      if (t >= valid) continue;
      const float normaliser = mlstm_normaliser(dot, gates.m[t], args.eps);
      T* const h_t = h + token_of(first + t) * DV;
#pragma unroll
      for (int tile = 0; tile < kOwned; ++tile) {
        Vector<T, 2> pair;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float numerator = gates.carry[t] * sums.carried[tile][2 * e + j] +
                                  scored.of_half(place.half, tile, 2 * e + j) +
                                  received[tile * 4 + 2 * e + j][place.lane];
          pair.values[j] = from_float<T>(numerator / normaliser);
        }
        const int column = kPiece * (kOwned * place.half + tile) + place.column;
        if (vectorised) {
          if (column < columns) store_vector(h_t + column, pair);
        } else {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            if (column + j < columns) h_t[column + j] = pair.values[j];
          }
        }
      }
    }
  }

  state.store_C();
  const BlockPlace<kColumns> same_block(reread_block(), DV);
  if (!store_normaliser || same_block.first_column != 0) return;
  state.store_n();
  if (reread_thread() == kGateWarp * kWarpSize) args.m_out[same_block.head] = memory.gate_lanes[0].lane.stabiliser();
#endif
}

}  // namespace xlstm::cuda
