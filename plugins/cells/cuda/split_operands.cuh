// Products on the tensor cores of which one operand has 16 bits and the other is a float.
//
// A float goes through them as two bf16 that add up to it: the first is the float rounded to 8 bits, the second what is
// left, so at most 2^-17 of it is lost, and no power of two is out of range. The other operand is exact: bf16 as it is,
// float16 as two bf16 again. Of the products of two such pairs the one of the two remainders is left out: 2^-16.
#pragma once

#include <cstring>

#include "cells/cuda/tensor_core.cuh"

namespace xlstm::cuda {

// Neighbouring elements of 16 bits in a register. A bf16 is the upper half of a float.
template <typename T>
__device__ __forceinline__ Vector<float, 2> unpack(uint32_t pair) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    const uint32_t bits[2] = {pair << 16, pair & 0xffff0000u};
    Vector<float, 2> elements;
    std::memcpy(&elements, bits, sizeof elements);
    return elements;
  } else {
    Vector<T, 2> elements;
    std::memcpy(&elements, &pair, sizeof elements);
    return {to_float(elements.values[0]), to_float(elements.values[1])};
  }
}

__device__ __forceinline__ uint32_t pack_bfloat16(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  uint32_t bits;
  std::memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// Two neighbouring floats as kParts pairs of bf16, each the rest of those before it.
template <int kParts>
__device__ __forceinline__ void split(float first, float second, uint32_t (&parts)[kParts]) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    parts[part] = pack_bfloat16(first, second);
    const Vector<float, 2> taken = unpack<__nv_bfloat16>(parts[part]);
    first -= taken.values[0];
    second -= taken.values[1];
  }
}

// How many bf16 an element of T is.
template <typename T>
constexpr int kExactParts = std::is_same_v<T, __half> ? 2 : 1;

// The parts of a register, of an operand A, and of kTiles operands B, whose elements are T.
template <typename T>
__device__ __forceinline__ void split_exact(uint32_t pair, uint32_t (&parts)[kExactParts<T>]) {
  if constexpr (kExactParts<T> == 1) {
    parts[0] = pair;
  } else {
    const Vector<float, 2> elements = unpack<T>(pair);
    split(elements.values[0], elements.values[1], parts);
  }
}
template <typename T>
__device__ __forceinline__ void split_exact(const uint32_t (&a)[4], uint32_t (&parts)[kExactParts<T>][4]) {
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    uint32_t of_register[kExactParts<T>];
    split_exact<T>(a[r], of_register);
#pragma unroll
    for (int part = 0; part < kExactParts<T>; ++part) parts[part][r] = of_register[part];
  }
}
template <typename T, int kTiles>
__device__ __forceinline__ void split_exact(const uint32_t (&b)[kTiles][2],
                                            uint32_t (&parts)[kExactParts<T>][kTiles][2]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      uint32_t of_register[kExactParts<T>];
      split_exact<T>(b[tile][r], of_register);
#pragma unroll
      for (int part = 0; part < kExactParts<T>; ++part) parts[part][tile][r] = of_register[part];
    }
  }
}

// Adds A B for kTiles matrices B side by side, both given in parts.
template <int kPartsA, int kPartsB, int kTiles>
__device__ __forceinline__ void multiply_parts(float (&sums)[kTiles][4], const uint32_t (&a)[kPartsA][4],
                                               const uint32_t (&b)[kPartsB][kTiles][2]) {
#pragma unroll
  for (int i = 0; i < kPartsA; ++i) {
#pragma unroll
    for (int j = 0; j < kPartsB; ++j) {
      if (i + j < 2) multiply_add<__nv_bfloat16>(sums, a[i], b[j]);
    }
  }
}

}  // namespace xlstm::cuda
