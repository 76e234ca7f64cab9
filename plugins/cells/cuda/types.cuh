// What the CUDA kernels share: conversion between the activation types and float, and vectors of 16-byte loads.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "cells/cells.h"

// Dynamic shared memory, named once so that a build without nvcc can supply its own; aligned to a row of banks.
#if !defined(XLSTM_DYNAMIC_SHARED)
#define XLSTM_DYNAMIC_SHARED(type, name) extern __shared__ __align__(128) type name[]
#endif

namespace xlstm::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// N consecutive elements moved by one instruction; the address must be a multiple of N * sizeof(T).
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T values[N];
};

template <int N, typename T>
__device__ __forceinline__ Vector<T, N> load_vector(const T* address) {
  return *reinterpret_cast<const Vector<T, N>*>(address);
}

template <int N, typename T>
__device__ __forceinline__ void store_vector(T* address, const Vector<T, N>& vector) {
  *reinterpret_cast<Vector<T, N>*>(address) = vector;
}

// The address as a value of its own: what is added to it later is added to it, and not folded into what it came from.
template <typename T>
__device__ __forceinline__ T* settled(T* address) {
#if defined(__CUDACC__)
  size_t global = __cvta_generic_to_global(address);
  asm("" : "+l"(global));
  return static_cast<T*>(__cvta_global_to_generic(global));
#else
  return address;
#endif
}

inline bool is_aligned(const void* address, size_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

template <typename Int>
__host__ __device__ constexpr Int ceil_div(Int a, Int b) {
  return (a + b - 1) / b;
}

// The positions of batch row `row` that advance its state.
__device__ __forceinline__ int64_t row_length(const int32_t* lengths, int64_t row, int64_t sequence) {
  if (lengths == nullptr) return sequence;
  const int64_t length = lengths[row];
  return length < 0 ? 0 : (length < sequence ? length : sequence);
}

// Calls fn(T{}) with the C++ type of `type`; false for a value outside the enumeration.
template <typename Function>
bool dispatch_type(DataType type, Function&& fn) {
  switch (type) {
    case DataType::kFloat32:
      fn(float{});
      return true;
    case DataType::kFloat16:
      fn(__half{});
      return true;
    case DataType::kBFloat16:
      fn(__nv_bfloat16{});
      return true;
  }
  return false;
}

// The same in a kernel, for a value inside it.
template <typename Function>
__device__ __forceinline__ void with_type(DataType type, Function&& fn) {
  if (type == DataType::kFloat32) {
    fn(float{});
  } else if (type == DataType::kFloat16) {
    fn(__half{});
  } else {
    fn(__nv_bfloat16{});
  }
}

}  // namespace xlstm::cuda
