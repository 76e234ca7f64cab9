// Test only: nvcuda::wmma for 16 x 16 x 8 products in TF32, by the lanes of a simulated warp. Which lane holds which
// element is not what a GPU does, and no kernel may depend on it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "simulator.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
namespace precision {
struct tf32;
}
enum layout_t { mem_row_major, mem_col_major };

constexpr int kWarp = 32, kM = 16, kN = 16, kK = 8;

// Rows, columns and the leading dimension's direction of a fragment.
template <typename Use>
struct Shape;
template <>
struct Shape<matrix_a> {
  static constexpr int kRows = kM, kColumns = kK;
};
template <>
struct Shape<matrix_b> {
  static constexpr int kRows = kK, kColumns = kN;
};
template <>
struct Shape<accumulator> {
  static constexpr int kRows = kM, kColumns = kN;
};

// Lane l holds elements l, l + 32, ... of the row-major matrix.
template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
  static_assert(M == kM && N == kN && K == kK);
  static constexpr int num_elements = Shape<Use>::kRows * Shape<Use>::kColumns / kWarp;
  float x[num_elements];
};

template <int M, int N, int K>
using Sums = fragment<accumulator, M, N, K, float>;

inline void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "mma.h: %s\n", what);
  std::abort();
}

// Calls fn(element, offset) for the elements of this lane.
template <typename Use, typename Function>
void each(int stride, bool transposed, const float* memory, Function&& fn) {
  require(reinterpret_cast<uintptr_t>(memory) % 32 == 0, "the matrix is not aligned to 32 bytes");
  require(stride % 4 == 0, "the stride is not a multiple of 16 bytes");
  constexpr int kColumns = Shape<Use>::kColumns, kCount = Shape<Use>::kRows * kColumns / kWarp;
  const int lane = static_cast<int>(simulator::thread_index.x) % kWarp;
  for (int e = 0; e < kCount; ++e) {
    const int index = e * kWarp + lane, row = index / kColumns, column = index % kColumns;
    fn(e, transposed ? column * stride + row : row * stride + column);
  }
}

template <typename Fragment>
void fill_fragment(Fragment& part, float value) {
  for (float& x : part.x) x = value;
}

template <typename Use, int M, int N, int K, typename Layout>
void load_matrix_sync(fragment<Use, M, N, K, precision::tf32, Layout>& part, const float* from, int stride) {
  each<Use>(stride, std::is_same_v<Layout, col_major>, from, [&](int e, int offset) { part.x[e] = from[offset]; });
}
template <int M, int N, int K>
void load_matrix_sync(Sums<M, N, K>& part, const float* from, int stride, layout_t layout) {
  each<accumulator>(stride, layout == mem_col_major, from, [&](int e, int offset) { part.x[e] = from[offset]; });
}
template <int M, int N, int K>
void store_matrix_sync(float* to, const Sums<M, N, K>& part, int stride, layout_t layout) {
  each<accumulator>(stride, layout == mem_col_major, to, [&](int e, int offset) { to[offset] = part.x[e]; });
}

// To nearest, ties away from zero.
inline float __float_to_tf32(float x) {
  if (!std::isfinite(x)) return x;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x1000u) & ~0x1fffu;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// d = a b + c. An operand that is no TF32 value ends the process: a GPU would cut it.
template <typename LayoutA, typename LayoutB>
void mma_sync(Sums<kM, kN, kK>& d, const fragment<matrix_a, kM, kN, kK, precision::tf32, LayoutA>& a,
              const fragment<matrix_b, kM, kN, kK, precision::tf32, LayoutB>& b, const Sums<kM, kN, kK>& c,
              const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  struct Lane {
    float* d;
    const float *a, *b, *c;
  } mine{d.x, a.x, b.x, c.x};
  const auto combine = [](void* const* lanes) {
    const auto lane = [&](int index) { return *static_cast<const Lane*>(lanes[index % kWarp]); };
    float left[kM][kK], right[kK][kN];
    const auto operand = [](float x) {
      require(std::isnan(x) || x == __float_to_tf32(x), "an operand is not rounded to TF32");
      return x;
    };
    for (int i = 0; i < kM * kK; ++i) left[i / kK][i % kK] = operand(lane(i).a[i / kWarp]);
    for (int i = 0; i < kK * kN; ++i) right[i / kN][i % kN] = operand(lane(i).b[i / kWarp]);
    for (int i = 0; i < kM * kN; ++i) {
      float sum = lane(i).c[i / kWarp];
      for (int k = 0; k < kK; ++k) sum += left[i / kN][k] * right[k][i % kN];
      lane(i).d[i / kWarp] = sum;
    }
  };
  simulator::collective(&mine, combine, file, line);
}

}  // namespace nvcuda::wmma
