// float32 matrix products on scratch memory, and the packing that prepares it. Compiled once for each instruction set:
// include it after hwy/foreach_target.h.
//
// Every element is a sum in the order of its depth, whatever the tiling: results do not depend on how a product is cut.
#if defined(XLSTM_CELLS_CPU_MATRIX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef XLSTM_CELLS_CPU_MATRIX_INL_H_
#undef XLSTM_CELLS_CPU_MATRIX_INL_H_
#else
#define XLSTM_CELLS_CPU_MATRIX_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cells/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {

// A tile of sums fills the registers, and leaves those for one row of B and one element of A. Without a fused
// multiply-add the products need registers too.
constexpr int64_t kLanes = HWY_LANES(float);
constexpr int64_t kTileRows = kLanes >= 16 || HWY_ARCH_ARM_A64 ? 8 : 4;
constexpr int64_t kTileVectors = HWY_NATIVE_FMA ? 3 : 2;
constexpr int64_t kPanel = kTileVectors * kLanes;  // columns of a tile
// Rows of B that stay in the nearest cache while they meet every tile of A.
constexpr int64_t kDepthBlock = 96;

HWY_INLINE int64_t round_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// A matrix of contiguous rows.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
};

// out[r] = scale[r scale_stride] out[r] + sum over j < depth of a[r][j] b[j], for `rows` rows of `vectors` vectors.
template <int64_t rows, int64_t vectors>
HWY_INLINE void tile_product(int64_t depth, Rows<const float> a, Rows<const float> b, const float* scale,
                             int64_t scale_stride, Rows<float> out) {
  const hn::ScalableTag<float> d;
  hn::Vec<decltype(d)> sums[rows][vectors];
  for (int64_t r = 0; r < rows; ++r) {
    const auto factor = hn::Set(d, scale[r * scale_stride]);
    for (int64_t v = 0; v < vectors; ++v) {
      sums[r][v] = hn::Mul(factor, hn::LoadU(d, out.data + r * out.stride + v * kLanes));
    }
  }
  for (int64_t j = 0; j < depth; ++j) {
    hn::Vec<decltype(d)> row[vectors];
    for (int64_t v = 0; v < vectors; ++v) row[v] = hn::LoadU(d, b.data + j * b.stride + v * kLanes);
    for (int64_t r = 0; r < rows; ++r) {
      const auto element = hn::Set(d, a.data[r * a.stride + j]);
      for (int64_t v = 0; v < vectors; ++v) sums[r][v] = hn::MulAdd(element, row[v], sums[r][v]);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t v = 0; v < vectors; ++v) hn::StoreU(sums[r][v], d, out.data + r * out.stride + v * kLanes);
  }
}

// out = scale out + a b, with one factor for each row of `out` (scale_stride 1) or for all (0). `rows`: a multiple of
// kTileRows. `columns`: at most kPanel; what fills up the last vector is computed too.
inline void product(int64_t rows, int64_t columns, int64_t depth, Rows<const float> a, Rows<const float> b,
                    const float* scale, int64_t scale_stride, Rows<float> out) {
  static constexpr float kOne = 1;
  const int64_t vectors = (columns + kLanes - 1) / kLanes;
  for (int64_t j = 0; j < depth; j += kDepthBlock) {
    const int64_t block = std::min(kDepthBlock, depth - j);
    const Rows<const float> b_block{b.data + j * b.stride, b.stride};
    for (int64_t r = 0; r < rows; r += kTileRows) {
      const Rows<const float> a_tile{a.data + r * a.stride + j, a.stride};
      const Rows<float> out_tile{out.data + r * out.stride, out.stride};
      const float* factors = j == 0 ? scale + r * scale_stride : &kOne;
      const int64_t stride = j == 0 ? scale_stride : 0;
      if (vectors == 1) {
        tile_product<kTileRows, 1>(block, a_tile, b_block, factors, stride, out_tile);
      } else if (vectors == 2) {
        tile_product<kTileRows, 2>(block, a_tile, b_block, factors, stride, out_tile);
      } else {
        tile_product<kTileRows, kTileVectors>(block, a_tile, b_block, factors, stride, out_tile);
      }
    }
  }
}

// a . b
HWY_INLINE float dot(int64_t count, const float* a, const float* b) {
  const hn::ScalableTag<float> d;
  auto one = hn::Zero(d), other = hn::Zero(d);
  int64_t j = 0;
  for (; j + 2 * kLanes <= count; j += 2 * kLanes) {
    one = hn::MulAdd(hn::LoadU(d, a + j), hn::LoadU(d, b + j), one);
    other = hn::MulAdd(hn::LoadU(d, a + j + kLanes), hn::LoadU(d, b + j + kLanes), other);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(one, other)));
  for (; j < count; ++j) sum += a[j] * b[j];
  return sum;
}

// to = scale from
template <class T>
HWY_INLINE void scaled_copy(int64_t count, float scale, const T* from, float* to) {
  for_lanes(count,
            [&](auto d, int64_t j) HWY_ATTR { hn::StoreU(hn::Mul(hn::Set(d, scale), load(d, from + j)), d, to + j); });
}

// to[c][r] = scale from[r][c]
template <class T>
void transpose(int64_t rows, int64_t columns, float scale, Rows<const T> from, Rows<float> to) {
  constexpr int64_t kTogether = 4;
  const hn::ScalableTag<float> d;
  const auto factor = hn::Set(d, scale);
  HWY_ALIGN_MAX float quadruples[kTogether * kLanes];
  const int64_t whole_rows = rows / kTogether * kTogether, whole_columns = columns / kLanes * kLanes;
  for (int64_t c = 0; c < whole_columns; c += kLanes) {  // the rows of `to` that it writes stay in the nearest cache
    for (int64_t r = 0; r < whole_rows; r += kTogether) {
      const auto row = [&](int64_t j)
                           HWY_ATTR { return hn::Mul(factor, load(d, from.data + (r + j) * from.stride + c)); };
      hn::StoreInterleaved4(row(0), row(1), row(2), row(3), d, quadruples);
      for (int64_t j = 0; j < kLanes; ++j) {
        std::memcpy(to.data + (c + j) * to.stride + r, quadruples + kTogether * j, kTogether * sizeof(float));
      }
    }
  }
  const auto one_by_one = [&](int64_t r, int64_t begin) HWY_ATTR {
    for (int64_t c = begin; c < columns; ++c) {
      to.data[c * to.stride + r] = scale * load_one(from.data + r * from.stride + c);
    }
  };
  for (int64_t r = 0; r < whole_rows; ++r) one_by_one(r, whole_columns);
  for (int64_t r = whole_rows; r < rows; ++r) one_by_one(r, 0);
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
