// Products of small matrices in shared memory in float32 arithmetic, done by all threads of a block together; the
// result stays in registers.
#pragma once

#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

// A matrix in shared memory: element (row, column) at data[row * stride + column], or with the two exchanged.
template <bool kTransposed>
struct Operand {
  const float* data;
  int stride;
};

// kM x kN sums, dealt out so that neighbouring threads own neighbouring columns.
template <int kM, int kN, int kThreads>
class ProductTile {
  static constexpr int kColumnThreads = 16;
  static constexpr int kRowThreads = kThreads / kColumnThreads;
  static constexpr int kRows = kM / kRowThreads, kColumns = kN / kColumnThreads;  // of a thread
  static_assert(kRows * kRowThreads == kM && kColumns * kColumnThreads == kN);

 public:
  __device__ __forceinline__ ProductTile()
      : row_(threadIdx.x / kColumnThreads), column_(threadIdx.x % kColumnThreads) {}

  __device__ __forceinline__ void load(const float* from, int stride) {
    each([&](float& sum, int row, int column) { sum = from[row * stride + column]; });
  }
  __device__ __forceinline__ void store(float* to, int stride) {
    each([&](float& sum, int row, int column) { to[row * stride + column] = sum; });
  }
  __device__ __forceinline__ void scale(float factor) {
    each([&](float& sum, int, int) { sum *= factor; });
  }

  // Adds A B, A being kM x depth and B depth x kN.
  template <bool kTransposedA, bool kTransposedB>
  __device__ __forceinline__ void multiply(Operand<kTransposedA> a, Operand<kTransposedB> b, int depth) {
#pragma unroll 4
    for (int k = 0; k < depth; ++k) {
      float a_values[kRows], b_values[kColumns];
#pragma unroll
      for (int i = 0; i < kRows; ++i) a_values[i] = at(a, row_ + i * kRowThreads, k);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) b_values[j] = at(b, k, column_ + j * kColumnThreads);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sums_[i][j] += a_values[i] * b_values[j];
      }
    }
  }

 private:
  template <typename Function>
  __device__ __forceinline__ void each(Function&& function) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        function(sums_[i][j], row_ + i * kRowThreads, column_ + j * kColumnThreads);
      }
    }
  }
  template <bool kTransposed>
  static __device__ __forceinline__ float at(Operand<kTransposed> matrix, int row, int column) {
    return kTransposed ? matrix.data[column * matrix.stride + row] : matrix.data[row * matrix.stride + column];
  }

  const int row_, column_;
  float sums_[kRows][kColumns] = {};
};

}  // namespace xlstm::cuda
