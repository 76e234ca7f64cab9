// What distinguishes the two cells for TensorRT, as data: their attributes and tensors, and the call of the kernel.
// Everything else (shapes, types, fields, messages) is one implementation in cell_plugin.cc.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "cells/cells.h"

namespace xlstm::tensorrt {

constexpr int32_t kMaxAttributes = 4;

struct Attribute {
  const char* name;
  float fallback;  // the value where a node does not say, as in the operator's schema
  float minimum;   // the smallest value allowed
};

enum class Element : int32_t {
  kActivation,  // T: float, float16 or bfloat16, the same for all tensors of the node
  kRecurrent,   // T or float
  kFloat,
  kInt32,
};

// A tensor of the operator. `shape` has one letter for each axis; the same letter is the same extent everywhere in the
// node, a digit is that extent.
struct TensorSpec {
  const char* name;
  Element element;
  const char* shape;
};

// The extent of every letter, as far as it is known.
class Extents {
 public:
  int64_t& operator[](char letter) { return values_[static_cast<size_t>(letter - 'A')]; }
  int64_t operator[](char letter) const { return values_[static_cast<size_t>(letter - 'A')]; }

 private:
  std::array<int64_t, 26> values_{};  // 0: not seen yet
};

// One node with everything known but the addresses: what enqueue needs.
struct Launch {
  Extents extents;
  DataType type = DataType::kFloat32, recurrent_type = DataType::kFloat32;
  bool has_lengths = false;
  std::array<float, kMaxAttributes> attributes{};
};

struct Cell {
  const char* name;
  const Attribute* attributes;
  int32_t attribute_count;
  const TensorSpec* inputs;  // the last one is `lengths`, which may be absent
  int32_t input_count;
  const TensorSpec* outputs;
  int32_t output_count;
  size_t (*workspace_size)(const Extents& extents);
  cudaError_t (*enqueue)(const Launch& launch, const void* const* inputs, void* const* outputs, void* workspace,
                         cudaStream_t stream);
};

extern const Cell kMlstmCell;
extern const Cell kSlstmCell;

}  // namespace xlstm::tensorrt
