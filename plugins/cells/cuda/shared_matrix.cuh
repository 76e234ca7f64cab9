// Matrices of 16-bit elements in shared memory, laid out for the loads of tensor_core.cuh.
#pragma once

#include "cells/cuda/tensor_core.cuh"

namespace xlstm::cuda {

constexpr int kPiece = 8;  // elements in the 16 bytes that move together

// kColumns in a row. The 16-byte pieces of a row are permuted, row by row, so that those of eight rows one below the
// other lie in different banks: no padding, and no conflict in either direction. The memory is aligned to 128 bytes.
//
// The rows that loads are given are multiples of 8 and their columns of 8, so both only shift what depends on the lane:
// a row by a constant, a column by an exchange of bits.
template <int kColumns>
class SharedMatrix {
  static constexpr int kPieces = kColumns / kPiece;
  static_assert(kPieces == 1 || kPieces == 2 || kPieces == 4 || kPieces == 8);

 public:
  static constexpr int bytes(int rows) { return rows * kColumns * static_cast<int>(sizeof(uint16_t)); }

  __device__ __forceinline__ explicit SharedMatrix(void* memory) : data_(static_cast<uint16_t*>(memory)) {}

  __device__ __forceinline__ uint16_t* at(int row, int column) const {
    return data_ + (row * kColumns + (column / kPiece ^ permutation(row)) * kPiece + column % kPiece);
  }
  // Writes a lane's pair of the upper or lower half of an operand A, or of sums, whose first element is (row, column).
  __device__ __forceinline__ void store(int row, int column, uint32_t pair) const {
    store_shared(shifted(lane() / 4, lane() % 4 * 2 ^ column, row), pair);
  }

  // The 16 x 16 elements from (row, column) on as an operand A, and as the operand A that they are transposed.
  __device__ __forceinline__ void load_a(int row, int column, uint32_t (&a)[4]) const {
    load_matrices<false>(a, shifted(lane() % 16, lane() / 16 * 8 ^ column, row));
  }
  __device__ __forceinline__ void load_a_transposed(int row, int column, uint32_t (&a)[4]) const {
    load_matrices<true>(a, shifted(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2 * 8 ^ column, row));
  }

  // 16 rows from `row` on of the 8 columns from `first` on and of those from `second` on, as two operands B; and those
  // of the transposed 16 x 16 elements from (row, column) on.
  __device__ __forceinline__ void load_b(int row, int first, int second, uint32_t (&b)[2][2]) const {
    uint32_t parts[4];
    load_matrices<true>(parts, shifted(lane() % 16, lane() < 16 ? first : second, row));
    deal(parts, b);
  }
  __device__ __forceinline__ void load_b_transposed(int row, int column, uint32_t (&b)[2][2]) const {
    uint32_t parts[4];
    load_matrices<false>(parts, shifted(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2 * 8 ^ column, row));
    deal(parts, b);
  }
  // 8 columns from `column` on of 16 rows, and of the 16 rows after them, as two operands B.
  __device__ __forceinline__ void load_b_below(int row, int column, uint32_t (&b)[2][2]) const {
    uint32_t parts[4];
    load_matrices<true>(parts, shifted(lane(), column, row));
    deal(parts, b);
  }

 private:
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }
  static __device__ __forceinline__ void deal(const uint32_t (&parts)[4], uint32_t (&b)[2][2]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) b[r / 2][r % 2] = parts[r];
  }
  static __device__ __forceinline__ int permutation(int row) { return row * kPieces / 8 % kPieces; }
  // The address of the piece at (row, column) and `down` rows further, made so that constants cost one exclusive or.
  __device__ __forceinline__ SharedAddress shifted(int row, int column, int down) const {
    constexpr int kSize = sizeof(uint16_t);
    const SharedAddress address = shared_address(at(row, 0)) ^ static_cast<SharedAddress>(column * kSize);
    return address + static_cast<SharedAddress>(down * kColumns * kSize);
  }

  uint16_t* data_;
};

}  // namespace xlstm::cuda
