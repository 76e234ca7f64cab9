// What a block of the mLSTM kernel on tensor cores (mlstm_tensor.cuh) keeps: its columns of C and n in registers, as
// sums of products, for as long as it runs; and its shared memory.
//
// Of the eight warps, four have 16 positions each in the outputs and 16 rows each of every slab in the state; the other
// four share this work, each of the two having half of the columns of C, every other 16 inputs of the scores, and n of
// every other slab.
#pragma once

#include "cells/cells.h"
#include "cells/cuda/chunk_gates.cuh"
#include "cells/cuda/shared_matrix.cuh"
#include "cells/cuda/split_operands.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

constexpr int kTensorThreads = 256, kTensorWarps = kTensorThreads / kWarpSize;
constexpr int kChunk = 64;  // positions
constexpr int kSlab = 64;   // columns of Q and K, rows of C: what is in shared memory at a time
constexpr int kSide = 16;   // of a block of positions, inputs or rows: the depth of one product
constexpr int kSteps = kSlab / kSide;
static_assert(kChunk == kSlab && kTensorWarps == 2 * kSteps);

// A warp's part of the work, and a lane's in the sums.
struct WarpPlace {
  int warp, lane;
  int half;
  int first_position;  // of 16
  int first_row;       // of a slab, of 16
  int row, column;     // of a lane in the sums of a product: the next column and the row 8 below are its own too

  __device__ __forceinline__ explicit WarpPlace(int thread) {
    warp = thread / kWarpSize;
    lane = thread % kWarpSize;
    half = warp / kSteps;
    // The later positions have more scores: the two warps of a scheduler have early and late ones.
    first_position = kSide * (half ? kTensorWarps - 1 - warp : warp);
    first_row = kSide * (warp % kSteps);
    row = lane / 4;
    column = lane % 4 * 2;
  }
  // The other warp with the same positions.
  __device__ __forceinline__ int partner() const { return kTensorWarps - 1 - warp; }
};

// What is on its way, or read by other warps, is there twice and used by turns.
template <int kColumns>
struct TensorMemory {
  static constexpr int kOwned = kColumns / kSide;  // operands of 8 columns that are a warp's

  alignas(128) char queries[2][SharedMatrix<kSlab>::bytes(kChunk)];
  alignas(128) char keys[2][SharedMatrix<kSlab>::bytes(kChunk)];
  alignas(128) char values[2][SharedMatrix<kColumns>::bytes(kChunk)];
  alignas(128) char C[2][SharedMatrix<2 * kColumns>::bytes(kSlab)];  // the first parts of a row, then the second
  alignas(128) char n[2][SharedMatrix<kPiece>::bytes(kSlab)];        // three parts of every row, then zeros
  alignas(16) uint32_t gain_parts[2][kChunk][4];                     // the same of the gain of every position
  ChunkGates<kChunk> gates[2];
  struct {
    GateLane<kChunk> lane;
    double apart;  // so that the lanes' members lie in different banks
  } gate_lanes[kWarpSize];
  float exchange[kTensorWarps][4 * kOwned + 2][kWarpSize];
};

// What a block works on: a head of batch * heads, and the first of kColumns columns of its C.
template <int kColumns>
struct BlockPlace {
  int head, first_column;

  __device__ __forceinline__ BlockPlace(int block, int dim_v) {
    const int tiles = ceil_div(dim_v, kColumns);
    head = block / tiles;
    first_column = block % tiles * kColumns;
  }
};

// A row of eight bf16 columns, of which the first three add up to `x`: the pair that begins at `column`.
__device__ __forceinline__ uint32_t row_of_parts(float x, int column) {
  uint32_t parts[3];
  split(x, 0.0f, parts);
  return column == 0 ? parts[0] | parts[1] << 16 : (column == 2 ? parts[2] : 0u);
}

// A thread's elements of C and n, for at most kSlabs slabs.
template <int kColumns, int kSlabs>
class StateTile {
  static constexpr int kOwned = TensorMemory<kColumns>::kOwned;

 public:
  __device__ __forceinline__ StateTile(const MlstmArgs& args, const WarpPlace& place) : args_(args), place_(place) {}

  __device__ __forceinline__ void load() {
    with_type(args_.memory_type, [&](auto example) {
      using M = decltype(example);
      each_element(static_cast<const M*>(args_.C_in), [](float& element, const M& from) { element = to_float(from); });
    });
    each_row(args_.n_in, [](float& element, float from) { element = from; });
  }
  __device__ __forceinline__ void store_C() {
    with_type(args_.memory_type, [&](auto example) {
      using M = decltype(example);
      each_element(static_cast<M*>(args_.C_out), [](float& element, M& to) { to = from_float<M>(element); });
    });
  }
  __device__ __forceinline__ void store_n() {
    each_row(args_.n_out, [](float& element, float& to) { to = element; });
  }

  // Writes a slab as operands.
  __device__ __forceinline__ void write_parts(int slab, void* C_memory, void* n_memory) {
    const SharedMatrix<2 * kColumns> C_parts(C_memory);
    const SharedMatrix<kPiece> n_parts(n_memory);
    with_slab(slab, [&](float (&C)[kOwned][4], float (&n)[2]) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int row = place_.first_row + e * 8;
#pragma unroll
        for (int tile = 0; tile < kOwned; ++tile) {
          uint32_t parts[2];
          split(C[tile][2 * e], C[tile][2 * e + 1], parts);
          const int column = kPiece * (kOwned * place_.half + tile);
          C_parts.store(row, column, parts[0]);
          C_parts.store(row, kColumns + column, parts[1]);
        }
        if (has_n(slab)) n_parts.store(row, 0, row_of_parts(n[e], place_.column));
      }
    });
  }

  // C' = decay C + K^T V, n' = decay n + K^T gain, for a slab of K and with V and the gain in parts.
  template <typename T>
  __device__ __forceinline__ void update(int slab, SharedMatrix<kSlab> keys, float decay,
                                         const uint32_t (&values)[kSteps][2][kOwned][2],
                                         SharedMatrix<kPiece> gain_parts) {
    with_slab(slab, [&](float (&C)[kOwned][4], float (&n)[2]) {
      float n_sums[1][4] = {};
      uint32_t gains[2][2];  // operands of two steps
#pragma unroll
      for (int tile = 0; tile < kOwned; ++tile) {
#pragma unroll
        for (int e = 0; e < 4; ++e) C[tile][e] *= decay;
      }
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t k[4], k_parts[kExactParts<T>][4];
        keys.load_a_transposed(kSide * step, place_.first_row, k);
        split_exact<T>(k, k_parts);
        multiply_parts(C, k_parts, values[step]);
        if (step % 2 == 0) gain_parts.load_b_below(kSide * step, 0, gains);
        const uint32_t gain[1][1][2] = {{{gains[step % 2][0], gains[step % 2][1]}}};
        multiply_parts(n_sums, k_parts, gain);
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float sum = n_sums[0][2 * e] + n_sums[0][2 * e + 1];
        sum += __shfl_xor_sync(kFullWarp, sum, 1);
        sum += __shfl_xor_sync(kFullWarp, sum, 2);
        if (has_n(slab)) n[e] = decay * n[e] + sum;
      }
    });
  }

 private:
  __device__ __forceinline__ bool has_n(int slab) const { return slab % 2 == place_.half; }

  // Calls fn with the elements of a slab: registers have no index, so there is a branch for each.
  template <typename Function>
  __device__ __forceinline__ void with_slab(int wanted, Function&& fn) {
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) {
      if (slab == wanted) fn(C_[slab], n_[slab / 2]);
    }
  }
  // Calls fn(element of C, its place in `states`) for those that are there, slab by slab: the addresses of all at once
  // would take more registers than the elements.
  template <typename M, typename Function>
  __device__ __forceinline__ void each_element(M* states, Function&& fn) {
    const int rows = static_cast<int>(args_.dim_qk), width = static_cast<int>(args_.dim_v);
    const WarpPlace place(reread_thread());
    const BlockPlace<kColumns> block(reread_block(), width);
    const int column = block.first_column + kPiece * kOwned * place.half + place.column;
    states += static_cast<int64_t>(block.head) * rows * width;
    for (int slab = 0; slab < ceil_div(rows, kSlab); ++slab) {
      const int row = slab * kSlab + place.first_row + place.row;
      with_slab(slab, [&](float (&C)[kOwned][4], float (&)[2]) {
#pragma unroll
        for (int tile = 0; tile < kOwned; ++tile) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int down = e / 2 * 8, right = tile * kPiece + e % 2;
            if (row + down < rows && column + right < width) {
              fn(C[tile][e], states[(row + down) * width + column + right]);
            }
          }
        }
      });
    }
  }
  // The same for n. The four lanes of a row have the same.
  template <typename N, typename Function>
  __device__ __forceinline__ void each_row(N* states, Function&& fn) {
    const int rows = static_cast<int>(args_.dim_qk);
    const WarpPlace place(reread_thread());
    states += static_cast<int64_t>(BlockPlace<kColumns>(reread_block(), static_cast<int>(args_.dim_v)).head) * rows;
    for (int slab = 0; slab < ceil_div(rows, kSlab); ++slab) {
      const int row = slab * kSlab + place.first_row + place.row;
      with_slab(slab, [&](float (&)[kOwned][4], float (&n)[2]) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (has_n(slab) && row + e * 8 < rows) fn(n[e], states[row + e * 8]);
        }
      });
    }
  }

  const MlstmArgs& args_;
  const WarpPlace& place_;
  float C_[kSlabs][kOwned][4] = {}, n_[ceil_div(kSlabs, 2)][2] = {};
};

}  // namespace xlstm::cuda
