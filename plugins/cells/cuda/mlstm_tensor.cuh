// mLSTM cell over a sequence of 16-bit activations, in chunks of kChunk positions (the chunkwise form of Beck et al.
// 2025), on the tensor cores of sm_80 and later: the recurrence inside a chunk as products of matrices, from chunk to
// chunk as in the step kernel.
//
// A block owns kColumns columns of one head's C with all its rows. They stay in its threads' registers, as the sums of
// products, from the first position to the last: C crosses global memory once each way, and blocks need nothing from
// each other. For one chunk, with D_ts and the gates as in chunk_gates.cuh:
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
// Of the eight warps, four have 16 positions each in the outputs and 16 rows each of every slab of C in the update; the
// other four share this work, each of the two having half of the columns of C, and every other 16 inputs of the scores.
//
// Hazard of n and m updated in place: other blocks of the head may have yet to read them, so they are then left to a
// second launch.
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/chunk_gates.cuh"
#include "cells/cuda/shared_matrix.cuh"
#include "cells/cuda/split_operands.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

constexpr int kTensorThreads = 256;
constexpr int kChunk = 64;  // positions
constexpr int kSlab = 64;   // columns of Q and K, rows of C
constexpr int kSide = 16;   // of a block of positions, inputs or rows: the depth of one product
constexpr int kSteps = kSlab / kSide;
static_assert(kChunk == kSlab && kTensorThreads == 2 * kSteps * kWarpSize);

// What a block keeps in shared memory; everything that is on its way or read by others twice, used by turns.
template <int kColumns>
struct TensorMemory {
  static constexpr int kOwned = kColumns / kSide;  // operands of 8 columns that are a warp's

  alignas(128) char queries[2][SharedMatrix<kSlab>::bytes(kChunk)];
  alignas(128) char keys[2][SharedMatrix<kSlab>::bytes(kChunk)];
  alignas(128) char values[2][SharedMatrix<kColumns>::bytes(kChunk)];
  alignas(128) char C[2][SharedMatrix<2 * kColumns>::bytes(kSlab)];  // the first parts of a row, then the second
  alignas(128) char n[2][SharedMatrix<kPiece>::bytes(kSlab)];        // three parts of every row, then zeros
  alignas(16) uint32_t gain_parts[2][kChunk][4];  // three parts of the gain of every position, then zeros
  ChunkGates<kChunk> gates[2];
  float exchange[kTensorThreads / kWarpSize][4 * kOwned + 2][kWarpSize];
};

// Eight elements into shared memory, of which the first `present` are there; the others are zero and never read.
template <typename T>
__device__ __forceinline__ void copy_piece(void* to, const T* from, int64_t present, bool vectorised) {
  if (vectorised) return copy_async(to, from, present > 0);
  Vector<T, kPiece> piece{};
#pragma unroll
  for (int j = 0; j < kPiece; ++j) {
    if (j < present) piece.values[j] = from[j];
  }
  store_vector(static_cast<T*>(to), piece);
}

// Grid: batch * heads * tiles of C; dynamic shared memory: TensorMemory. DK is at most kSlabs * kSlab. `vectorised`: DK
// and DV are multiples of 8, and q, k, v and h are aligned to 16 bytes.
template <typename T, int kColumns, int kSlabs>
__global__ void __launch_bounds__(kTensorThreads)
    mlstm_tensor_kernel(const MlstmArgs args, const bool vectorised, const bool store_normaliser) {
#if __CUDA_ARCH__ >= 800
  using Memory = TensorMemory<kColumns>;
  constexpr int kOwned = Memory::kOwned, kParts = kExactParts<T>;
  constexpr int kGateWarp = 7;  // which has the least of the scores
  XLSTM_DYNAMIC_SHARED(float, shared);
  Memory& memory = *reinterpret_cast<Memory*>(shared);

  const int64_t DK = args.dim_qk, DV = args.dim_v;
  const int slabs = static_cast<int>(ceil_div<int64_t>(DK, kSlab));
  const unsigned tiles = static_cast<unsigned>(ceil_div<int64_t>(DV, kColumns));
  const int64_t head = blockIdx.x / tiles;  // of batch * heads
  const int64_t first_column = blockIdx.x % tiles * int64_t{kColumns};
  const int64_t columns = DV - first_column < kColumns ? DV - first_column : kColumns;
  const int64_t batch_row = head / args.heads;
  const int64_t length = row_length(args.lengths, batch_row, args.sequence);
  const int64_t row_token = batch_row * args.sequence * args.heads + head % args.heads;
  T* const h = static_cast<T*>(args.h) + first_column;
  const auto valid_from = [&](int64_t first) {
    return static_cast<int>(length - first < kChunk ? length - first : kChunk);
  };

  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int quarter = warp % kSteps, half = warp / kSteps;
  const int first_position =
      kSide * (half ? kSteps - 1 - quarter : quarter);  // so that every quarter has as many scores
  const int first_row = kSide * quarter;                // of the slab
  const int own_column = kPiece * kOwned * half;
  const int lane_row = lane / 4, lane_column = lane % 4 * 2;  // of a lane in sums; the next column and row + 8 too

  // Starts to copy a slab, with the first one the values too.
  const auto copy_slab = [&](int64_t first, int slab, int buffer) {
    const int64_t token = row_token + first * args.heads;
    const int valid = valid_from(first);
    const auto copy = [&](auto to, const void* from, int pieces, int64_t width, int64_t column, int64_t end) {
      for (int index = thread; index < kChunk * pieces; index += kTensorThreads) {
        const int row = index / pieces, piece = index % pieces * kPiece;
        const T* const address = static_cast<const T*>(from) + (token + row * args.heads) * width + column + piece;
        copy_piece(to.at(row, piece), address, row < valid ? end - column - piece : 0, vectorised);
      }
    };
    const int64_t column = slab * int64_t{kSlab};
    copy(SharedMatrix<kSlab>(memory.queries[buffer]), args.q, kSlab / kPiece, DK, column, DK);
    copy(SharedMatrix<kSlab>(memory.keys[buffer]), args.k, kSlab / kPiece, DK, column, DK);
    if (slab == 0) {
      const SharedMatrix<kColumns> values(memory.values[first / kChunk % 2]);
      copy(values, args.v, kColumns / kPiece, DV, first_column, DV);
    }
    commit_copies();
  };
  // Calls fn(slab) with a constant: registers have no index.
  const auto with_slab = [&](int wanted, auto&& fn) {
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) {
      if (slab == wanted) fn(slab);
    }
  };

  float C[kSlabs][kOwned][4], n[kSlabs][2];  // n: of rows lane_row and lane_row + 8, in the second half's warps
  // Calls fn(element, index in the head's matrix) for those of the thread's elements of C that are there.
  const auto each_element = [&](auto&& fn) {
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) {
#pragma unroll
      for (int tile = 0; tile < kOwned; ++tile) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int64_t row = slab * kSlab + first_row + lane_row + e / 2 * 8;
          const int column = own_column + tile * kPiece + lane_column + e % 2;
          if (row < DK && column < columns) fn(C[slab][tile][e], row * DV + column);
        }
      }
    }
  };
  const int64_t C_offset = head * DK * DV + first_column;
#pragma unroll
  for (int slab = 0; slab < kSlabs; ++slab) {
#pragma unroll
    for (int tile = 0; tile < kOwned; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) C[slab][tile][e] = 0.0f;
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t row = slab * kSlab + first_row + lane_row + e * 8;
      n[slab][e] = half == 1 && row < DK ? args.n_in[head * DK + row] : 0.0f;
    }
  }
  with_type(args.memory_type, [&](auto example) {
    const auto* const C_in = static_cast<const decltype(example)*>(args.C_in) + C_offset;
    each_element([&](float& element, int64_t index) { element = to_float(C_in[index]); });
  });

  // Writes a slab's rows of C and n as operands.
  const auto write_parts = [&](int wanted, int buffer) {
    const SharedMatrix<2 * kColumns> C_parts(memory.C[buffer]);
    const SharedMatrix<kPiece> n_parts(memory.n[buffer]);
    const auto put = [](auto matrix, int row, int column, uint32_t pair) {
      *reinterpret_cast<uint32_t*>(matrix.at(row, column)) = pair;
    };
    with_slab(wanted, [&](int slab) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int row = first_row + lane_row + e * 8;
#pragma unroll
        for (int tile = 0; tile < kOwned; ++tile) {
          const int column = own_column + tile * kPiece + lane_column;
          uint32_t parts[2];
          split(C[slab][tile][2 * e], C[slab][tile][2 * e + 1], parts);
          put(C_parts, row, column, parts[0]);
          put(C_parts, row, kColumns + column, parts[1]);
        }
        if (half == 0) continue;
        uint32_t parts[3];
        split(n[slab][e], 0.0f, parts);
        put(n_parts, row, lane_column,
            lane_column == 0 ? parts[0] | parts[1] << 16 : (lane_column == 2 ? parts[2] : 0u));
      }
    });
  };

  float m = args.m_in[head];          // after the chunks whose gates are there, in the gate warp
  GateInputs<T, kChunk> gate_inputs;  // of the next chunk
  const auto compute_gates = [&](int64_t first) {
    const int turn = static_cast<int>(first / kChunk % 2);
    ChunkGates<kChunk>& gates = memory.gates[turn];
    m = compute_chunk_gates(args, gate_inputs, length - first, m, gates);
    gate_inputs.fetch(args, row_token + (first + kChunk) * args.heads, length - first - kChunk);
#pragma unroll
    for (int t = 2 * lane; t < 2 * lane + 2; ++t) {
      uint32_t parts[3];
      split(gates.gain[t], 0.0f, parts);
      const Vector<uint32_t, 4> row{{parts[0] | parts[1] << 16, parts[2], 0u, 0u}};
      store_vector(memory.gain_parts[turn][t], row);
    }
  };
  if (length > 0) {
    copy_slab(0, 0, 0);
    write_parts(0, 0);
    if (warp == kGateWarp) {
      gate_inputs.fetch(args, row_token, length);
      compute_gates(0);
    }
  }

  int buffer = 0;  // of the slab
  for (int64_t first = 0; first < length; first += kChunk) {
    const int valid = valid_from(first), turn = static_cast<int>(first / kChunk % 2);
    const int64_t next = first + kChunk;
    const ChunkGates<kChunk>& gates = memory.gates[turn];
    const SharedMatrix<kColumns> values(memory.values[turn]);
    const bool has_outputs = first_position < valid;
    const auto has_scores = [&](int block) { return kSide * (half + 2 * block) <= first_position; };

    float scores[2][2][4] = {}, carried[kOwned][4] = {}, n_dot_q[1][4] = {};
    uint32_t weighted[kSteps][2][kOwned][2];  // gain_s v_s
    for (int slab = 0; slab < slabs; ++slab, buffer ^= 1) {
      wait_copies<0>();
      __syncthreads();
      if (slab + 1 < slabs) {
        copy_slab(first, slab + 1, buffer ^ 1);
      } else if (next < length) {
        copy_slab(next, 0, buffer ^ 1);
      }
      if (slab == 0) {
        if (warp == kGateWarp && next < length) compute_gates(next);
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          uint32_t v[2][2];
          values.load_b(kSide * step, own_column, own_column + kPiece * (kOwned - 1), v);
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const Vector<float, 2> gain = load_vector<2>(gates.gain + kSide * step + r * 8 + lane_column);
#pragma unroll
            for (int tile = 0; tile < kOwned; ++tile) {
              const Vector<float, 2> value = unpack<T>(v[tile][r]);
              uint32_t parts[2];
              split(gain.values[0] * value.values[0], gain.values[1] * value.values[1], parts);
              weighted[step][0][tile][r] = parts[0];
              weighted[step][1][tile][r] = parts[1];
            }
          }
        }
      }

      const SharedMatrix<kSlab> queries(memory.queries[buffer]), keys(memory.keys[buffer]);
      if (has_outputs) {
        const SharedMatrix<2 * kColumns> C_parts(memory.C[buffer]);
        uint32_t n_parts[2][2];  // of two steps; the other half has the other two
        SharedMatrix<kPiece>(memory.n[buffer]).load_b_below(2 * kSide * half, 0, n_parts);
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          uint32_t q[4], q_parts[kParts][4], C_operands[2][kOwned][2];
          queries.load_a(first_position, kSide * step, q);
#pragma unroll
          for (int block = 0; block < 2; ++block) {
            if (!has_scores(block)) continue;
            uint32_t k[2][2];
            keys.load_b_transposed(kSide * (half + 2 * block), kSide * step, k);
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
          if (step / 2 == half) {
            const uint32_t n_operand[1][1][2] = {{{n_parts[step % 2][0], n_parts[step % 2][1]}}};
            multiply_parts(n_dot_q, q_parts, n_operand);
          }
        }
      }

      with_slab(slab, [&](int index) {
        const float decay = gates.decay;
#pragma unroll
        for (int tile = 0; tile < kOwned; ++tile) {
#pragma unroll
          for (int e = 0; e < 4; ++e) C[index][tile][e] *= decay;
        }
        float n_sums[1][4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          if (kSide * step >= valid) break;
          uint32_t k[4], k_parts[kParts][4];
          keys.load_a_transposed(kSide * step, first_row, k);
          split_exact<T>(k, k_parts);
          multiply_parts(C[index], k_parts, weighted[step]);
          if (half == 0) continue;
          uint32_t gain_parts[2][2];
          SharedMatrix<kPiece>(memory.gain_parts[turn]).load_b_below(step / 2 * 2 * kSide, 0, gain_parts);
          const uint32_t gain[1][1][2] = {{{gain_parts[step % 2][0], gain_parts[step % 2][1]}}};
          multiply_parts(n_sums, k_parts, gain);
        }
        if (half == 0) return;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float sum = n_sums[0][2 * e] + n_sums[0][2 * e + 1];
          sum += __shfl_xor_sync(kFullWarp, sum, 1);
          sum += __shfl_xor_sync(kFullWarp, sum, 2);
          n[index][e] = decay * n[index][e] + sum;
        }
      });
      write_parts(slab + 1 < slabs ? slab + 1 : 0, buffer ^ 1);
    }

    float outputs[kColumns / kSide][2][4] = {}, dot[2] = {};
    if (has_outputs) {
      const float scale = args.q_scale * args.k_scale;
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        if (!has_scores(block)) continue;
        const int first_input = kSide * (half + 2 * block);
        uint32_t P[2][4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const int t = first_position + lane_row + r % 2 * 8, s = first_input + lane_column + r / 2 * 8;
          const Vector<FloatPair, 2> origin = load_vector<2>(gates.origin + s);
          float pair[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float score = scale * scores[block][r / 2][r % 2 * 2 + e];
            pair[e] = s + e <= t ? score * chunk_weight(gates.reach[t], origin.values[e]) : 0.0f;
            dot[r % 2] += pair[e];
          }
          uint32_t parts[2];
          split(pair[0], pair[1], parts);
          P[0][r] = parts[0];
          P[1][r] = parts[1];
        }
#pragma unroll
        for (int tiles16 = 0; tiles16 < kColumns / kSide; ++tiles16) {
          uint32_t v[2][2], v_parts[kParts][2][2];
          values.load_b(first_input, kSide * tiles16, kSide * tiles16 + kPiece, v);
          split_exact<T>(v, v_parts);
          multiply_parts(outputs[tiles16], P, v_parts);
        }
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        dot[e] += gates.carry[first_position + lane_row + e * 8] * (n_dot_q[0][2 * e] + n_dot_q[0][2 * e + 1]);
      }
    }
    // The partner has the same positions: its columns go there, and one's own come from there.
    const int partner = kTensorThreads / kWarpSize - 1 - warp;
    const auto sum_of = [&](int column_half, int tile, int e) {
      const int index = column_half * kOwned + tile;
      return outputs[index / 2][index % 2][e];
    };
#pragma unroll
    for (int tile = 0; tile < kOwned; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        memory.exchange[warp][tile * 4 + e][lane] = half ? sum_of(0, tile, e) : sum_of(1, tile, e);
      }
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) memory.exchange[warp][kOwned * 4 + e][lane] = dot[e];
    __syncthreads();
    if (has_outputs) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int t = first_position + lane_row + e * 8;
        float sum = dot[e] + memory.exchange[partner][kOwned * 4 + e][lane];
        sum += __shfl_xor_sync(kFullWarp, sum, 1);
        sum += __shfl_xor_sync(kFullWarp, sum, 2);
        if (t >= valid) continue;
        const float normaliser = mlstm_normaliser(sum, gates.m[t], args.eps);
        T* const h_t = h + (row_token + (first + t) * args.heads) * DV;
#pragma unroll
        for (int tile = 0; tile < kOwned; ++tile) {
          Vector<T, 2> pair;
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const float inside = (half ? sum_of(1, tile, 2 * e + j) : sum_of(0, tile, 2 * e + j)) +
                                 memory.exchange[partner][tile * 4 + 2 * e + j][lane];
            pair.values[j] = from_float<T>((gates.carry[t] * carried[tile][2 * e + j] + inside) / normaliser);
          }
          const int column = own_column + tile * kPiece + lane_column;
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
  }

  for (int64_t index = thread; index < (args.sequence - length) * kColumns; index += kTensorThreads) {
    const int64_t position = length + index / kColumns, column = index % kColumns;
    if (column < columns) h[(row_token + position * args.heads) * DV + column] = from_float<T>(0.0f);
  }
  with_type(args.memory_type, [&](auto example) {
    using M = decltype(example);
    M* const C_out = static_cast<M*>(args.C_out) + C_offset;
    each_element([&](float& element, int64_t index) { C_out[index] = from_float<M>(element); });
  });
  if (!store_normaliser || first_column != 0) return;
  if (half == 1 && lane_column == 0) {
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int64_t row = slab * kSlab + first_row + lane_row + e * 8;
        if (row < DK) args.n_out[head * DK + row] = n[slab][e];
      }
    }
  }
  if (warp == kGateWarp && lane == 0) args.m_out[head] = m;
#endif
}

}  // namespace xlstm::cuda
