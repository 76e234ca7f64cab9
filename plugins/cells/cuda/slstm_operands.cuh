// R and y of the sLSTM as operands of the tensor cores, which multiply bfloat16: as sums of bfloat16 parts. Three of
// them are a float32 to the last bit, two leave 2^-17 of it.
//
// Operands of the products are made of slabs of 32 inputs, in whose columns the inputs have an order that lets a lane
// have eight neighbours: of lane l those from l % 4 * 8 on, two by two in four registers.
#pragma once

#include <cstring>

#include "cells/cuda/split_operands.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

constexpr int kSlstmSlab = 32;  // inputs

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

// Of every part, the registers of eight weights.
template <int kParts, typename RecurrentT>
__device__ __forceinline__ void split_eight(const Eight<RecurrentT>& weights, uint32_t (&parts)[kParts][4]) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const Vector<RecurrentT, 2> elements = weights.pair(pair);
    if constexpr (std::is_same_v<RecurrentT, __nv_bfloat16>) {
      memcpy(&parts[0][pair], &elements, sizeof elements);
    } else {
      uint32_t of_pair[kParts];
      split(to_float(elements.values[0]), to_float(elements.values[1]), of_pair);
#pragma unroll
      for (int part = 0; part < kParts; ++part) parts[part][pair] = of_pair[part];
    }
  }
}

}  // namespace xlstm::cuda
