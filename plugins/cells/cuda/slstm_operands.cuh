// R and y of the sLSTM as operands of the tensor cores, which multiply bfloat16: as sums of bfloat16 parts. Three of
// them are a float32 to the last bit, two leave 2^-17 of it. Each part of R costs a product; those of y are columns.
//
// Row r of an operand of R, and row r + 8, belong to the warp's unit r / 2: gates i and z for an even r, f and o for an
// odd one. So a lane gets two gates of a unit, and the lane at distance 4 the other two. A slab of 32 inputs makes two
// operands, in whose columns the inputs have an order that lets a lane have eight neighbours.
#pragma once

#include <cstring>

#include "cells/cuda/tensor_core.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

constexpr int kSlstmSlab = 32;      // inputs
constexpr int kOperandUnits = 4;    // of 16 rows
constexpr int kOperandColumns = 8;  // of y: batch rows times parts

template <typename T, typename RecurrentT>
struct SlstmParts {
  static constexpr bool kExact = std::is_same_v<T, float>;  // 16-bit activations are content with two parts
  static constexpr int kWeights = std::is_same_v<RecurrentT, __nv_bfloat16> ? 1 : kExact ? 3 : 2;
  static constexpr int kInputs = kExact ? 3 : 2;      // of y
  static constexpr int kRowColumns = kExact ? 4 : 2;  // of a batch row, a power of two
};

// The bits of the bfloat16 nearest to a value, which keeps what is left.
__device__ __forceinline__ uint32_t take_part(float& x) {
  const __nv_bfloat16 part = from_float<__nv_bfloat16>(x);
  x -= to_float(part);
  return __bfloat16_as_ushort(part);
}

// The bfloat16 nearest to each of two values, side by side; the values keep what is left.
__device__ __forceinline__ uint32_t take_parts(float& first, float& second) {
  const __nv_bfloat162 parts = __floats2bfloat162_rn(first, second);
  first -= to_float(parts.x);
  second -= to_float(parts.y);
  uint32_t bits;
  memcpy(&bits, &parts, sizeof bits);
  return bits;
}

// Eight neighbours of a row of R, as they lie in memory.
template <typename RecurrentT>
struct Eight {
  static constexpr int kLoads = sizeof(RecurrentT) / 2;  // of 16 bytes
  Vector<uint32_t, 4> words[kLoads];

  __device__ __forceinline__ Vector<RecurrentT, 2> pair(int index) const {
    Vector<RecurrentT, 2> elements;
    memcpy(&elements, &words[index * kLoads / 4].values[index * kLoads % 4], sizeof elements);
    return elements;
  }
};

// From an address that is a multiple of 16 bytes.
template <typename RecurrentT>
__device__ __forceinline__ Eight<RecurrentT> load_eight(const RecurrentT* from) {
  Eight<RecurrentT> loaded;
#pragma unroll
  for (int load = 0; load < Eight<RecurrentT>::kLoads; ++load) {
    loaded.words[load] = load_vector<4>(reinterpret_cast<const uint32_t*>(from) + 4 * load);
  }
  return loaded;
}

// A slab of R: of every part, the two operands.
template <int kParts>
using SlabOperands = uint32_t[kParts][2][4];

// This lane's registers of them, from its two rows.
template <int kParts, typename RecurrentT>
__device__ __forceinline__ void make_operands(const Eight<RecurrentT> (&rows)[2], SlabOperands<kParts>& operands) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const Vector<RecurrentT, 2> elements = rows[half].pair(pair);
      if constexpr (std::is_same_v<RecurrentT, __nv_bfloat16>) {
        memcpy(&operands[0][pair / 2][pair % 2 * 2 + half], &elements, sizeof elements);
      } else {
        float first = to_float(elements.values[0]), second = to_float(elements.values[1]);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          operands[part][pair / 2][pair % 2 * 2 + half] = take_parts(first, second);
        }
      }
    }
  }
}

// Adds the products of a slab of R with one of y, of which this lane has eight inputs of column lane / 4.
template <int kParts>
__device__ __forceinline__ void multiply_slab(const SlabOperands<kParts>& operands, const Vector<uint32_t, 4>& column,
                                              float (&even)[1][4], float (&odd)[1][4]) {
  const uint32_t columns[2][1][2] = {{{column.values[0], column.values[1]}}, {{column.values[2], column.values[3]}}};
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    multiply_add<__nv_bfloat16>(even, operands[part][0], columns[0]);
    multiply_add<__nv_bfloat16>(odd, operands[part][1], columns[1]);
  }
}

}  // namespace xlstm::cuda
