// Matrices of 16-bit elements in shared memory, laid out for the loads of tensor_core.cuh.
#pragma once

#include "cells/cuda/tensor_core.cuh"

namespace xlstm::cuda {

constexpr int kPiece = 8;  // elements in the 16 bytes that move together

// kColumns in a row. The 16-byte pieces of a row are permuted, row by row, so that those of eight rows one below the
// other lie in different banks: no padding, and no conflict in either direction.
template <int kColumns>
class SharedMatrix {
  static constexpr int kPieces = kColumns / kPiece;
  static_assert(kPieces == 1 || kPieces == 2 || kPieces == 4 || kPieces == 8);

 public:
  static constexpr int bytes(int rows) { return rows * kColumns * static_cast<int>(sizeof(uint16_t)); }

  __device__ __forceinline__ explicit SharedMatrix(void* memory) : data_(static_cast<uint16_t*>(memory)) {}

  __device__ __forceinline__ uint16_t* at(int row, int column) const {
    const int piece = column / kPiece ^ row * kPieces / 8 % kPieces;
    return data_ + row * kColumns + piece * kPiece + column % kPiece;
  }

  // The 16 x 16 elements from (row, column) on as an operand A, and as the operand A that they are transposed.
  __device__ __forceinline__ void load_a(int row, int column, uint32_t (&a)[4]) const {
    load_matrices<false>(a, at(row + lane() % 16, column + lane() / 16 * 8));
  }
  __device__ __forceinline__ void load_a_transposed(int row, int column, uint32_t (&a)[4]) const {
    load_matrices<true>(a, at(row + lane() % 8 + lane() / 16 * 8, column + lane() / 8 % 2 * 8));
  }

  // 16 rows from `row` on of the 8 columns from `first` on and of those from `second` on, as two operands B; and those
  // of the transposed 16 x 16 elements from (row, column) on.
  __device__ __forceinline__ void load_b(int row, int first, int second, uint32_t (&b)[2][2]) const {
    uint32_t parts[4];
    load_matrices<true>(parts, at(row + lane() % 16, lane() < 16 ? first : second));
    deal(parts, b);
  }
  __device__ __forceinline__ void load_b_transposed(int row, int column, uint32_t (&b)[2][2]) const {
    uint32_t parts[4];
    load_matrices<false>(parts, at(row + lane() % 8 + lane() / 16 * 8, column + lane() / 8 % 2 * 8));
    deal(parts, b);
  }
  // 8 columns from `column` on of 16 rows, and of the 16 rows after them, as two operands B.
  __device__ __forceinline__ void load_b_below(int row, int column, uint32_t (&b)[2][2]) const {
    uint32_t parts[4];
    load_matrices<true>(parts, at(row + lane(), column));
    deal(parts, b);
  }

 private:
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kWarpSize; }
  static __device__ __forceinline__ void deal(const uint32_t (&parts)[4], uint32_t (&b)[2][2]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) b[r / 2][r % 2] = parts[r];
  }

  uint16_t* data_;
};

}  // namespace xlstm::cuda
