// Products of small matrices in shared memory, done by all threads of a block together; the result stays in registers.
//
// Two classes with one interface: FmaTile in float32 arithmetic, TensorTile on the tensor cores in TF32 with float32
// sums (sm_80 and later). TF32 has the range of float32 and the 11 bits of a float16: values of 16 bits go through it
// unchanged, and no state overflows in it. A caller says which operands are such values; the others are rounded.
#pragma once

#include <mma.h>

#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

// A matrix in shared memory: element (row, column) at data[row * stride + column], or with the two exchanged. kExact:
// every element has at most 11 significant bits. The tensor cores need `data` at a multiple of 32 bytes and a stride
// that is a multiple of 4.
template <bool kTransposed, bool kExact>
struct Operand {
  const float* data;
  int stride;
};

// kM x kN sums, dealt out so that neighbouring threads own neighbouring columns.
template <int kM, int kN, int kThreads>
class FmaTile {
  static constexpr int kColumnThreads = 16;
  static constexpr int kRowThreads = kThreads / kColumnThreads;
  static constexpr int kRows = kM / kRowThreads, kColumns = kN / kColumnThreads;  // of a thread
  static_assert(kRows * kRowThreads == kM && kColumns * kColumnThreads == kN);

 public:
  __device__ __forceinline__ FmaTile() : row_(threadIdx.x / kColumnThreads), column_(threadIdx.x % kColumnThreads) {}

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
  template <bool kTransposedA, bool kExactA, bool kTransposedB, bool kExactB>
  __device__ __forceinline__ void multiply(Operand<kTransposedA, kExactA> a, Operand<kTransposedB, kExactB> b,
                                           int depth) {
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
  template <bool kTransposed, bool kExact>
  static __device__ __forceinline__ float at(Operand<kTransposed, kExact> matrix, int row, int column) {
    return kTransposed ? matrix.data[column * matrix.stride + row] : matrix.data[row * matrix.stride + column];
  }

  const int row_, column_;
  float sums_[kRows][kColumns] = {};
};

// Tensor cores with TF32 operands: nothing of this is compiled for a device that lacks them.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
// kM x kN sums in 16 x 16 tiles, dealt out to the warps; those of one warp lie side by side.
template <int kM, int kN, int kThreads>
class TensorTile {
  static constexpr int kSide = 16, kStep = 8;  // a step of a product: 16 x 8 by 8 x 16
  static constexpr int kWarps = kThreads / kWarpSize, kTiles = kM / kSide * (kN / kSide);
  static constexpr int kOwned = ceil_div(kTiles, kWarps);
  static_assert(kM % kSide == 0 && kN % kSide == 0 && (kTiles % kWarps == 0 || kTiles < kWarps));
  static_assert(kN / kSide % kOwned == 0, "the tiles of a warp share their rows");

 public:
  __device__ __forceinline__ TensorTile() {
    const int first = static_cast<int>(threadIdx.x) / kWarpSize * kOwned;
    idle_ = first >= kTiles;
    row_ = first / (kN / kSide) * kSide;
    column_ = first % (kN / kSide) * kSide;
#pragma unroll
    for (Sums& sums : sums_) nvcuda::wmma::fill_fragment(sums, 0.0f);
  }

  __device__ __forceinline__ void load(const float* from, int stride) {
    if (idle_) return;
#pragma unroll
    for (int j = 0; j < kOwned; ++j) {
      nvcuda::wmma::load_matrix_sync(sums_[j], from + row_ * stride + column_ + j * kSide, stride,
                                     nvcuda::wmma::mem_row_major);
    }
  }
  __device__ __forceinline__ void store(float* to, int stride) {
    if (idle_) return;
#pragma unroll
    for (int j = 0; j < kOwned; ++j) {
      nvcuda::wmma::store_matrix_sync(to + row_ * stride + column_ + j * kSide, sums_[j], stride,
                                      nvcuda::wmma::mem_row_major);
    }
  }
  __device__ __forceinline__ void scale(float factor) {
#pragma unroll
    for (Sums& sums : sums_) {
#pragma unroll
      for (int e = 0; e < sums.num_elements; ++e) sums.x[e] *= factor;
    }
  }

  // Adds A B, A being kM x depth and B depth x kN, depth a multiple of 8.
  template <bool kTransposedA, bool kExactA, bool kTransposedB, bool kExactB>
  __device__ __forceinline__ void multiply(Operand<kTransposedA, kExactA> a, Operand<kTransposedB, kExactB> b,
                                           int depth) {
    if (idle_) return;
#pragma unroll 4
    for (int k = 0; k < depth; k += kStep) {
      Fragment<nvcuda::wmma::matrix_a, kTransposedA> a_part;
      load<kExactA>(a_part, a.data + (kTransposedA ? k * a.stride + row_ : row_ * a.stride + k), a.stride);
#pragma unroll
      for (int j = 0; j < kOwned; ++j) {
        const int column = column_ + j * kSide;
        Fragment<nvcuda::wmma::matrix_b, kTransposedB> b_part;
        load<kExactB>(b_part, b.data + (kTransposedB ? column * b.stride + k : k * b.stride + column), b.stride);
        nvcuda::wmma::mma_sync(sums_[j], a_part, b_part, sums_[j]);
      }
    }
  }

 private:
  using Sums = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, kSide, kSide, kStep, float>;
  template <typename Use, bool kTransposed>
  using Fragment =
      nvcuda::wmma::fragment<Use, kSide, kSide, kStep, nvcuda::wmma::precision::tf32,
                             std::conditional_t<kTransposed, nvcuda::wmma::col_major, nvcuda::wmma::row_major>>;

  template <bool kExact, typename Part>
  static __device__ __forceinline__ void load(Part& part, const float* from, int stride) {
    nvcuda::wmma::load_matrix_sync(part, from, stride);
    if constexpr (!kExact) {
#pragma unroll
      for (int e = 0; e < part.num_elements; ++e) part.x[e] = nvcuda::wmma::__float_to_tf32(part.x[e]);
    }
  }

  Sums sums_[kOwned];
  int row_, column_;
  bool idle_;
};

template <typename T, int kM, int kN, int kThreads>
using ProductTile = std::conditional_t<sizeof(T) == 2, TensorTile<kM, kN, kThreads>, FmaTile<kM, kN, kThreads>>;
#else
template <typename T, int kM, int kN, int kThreads>
using ProductTile = FmaTile<kM, kN, kThreads>;
#endif

}  // namespace xlstm::cuda
