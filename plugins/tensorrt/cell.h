// An operator and its kernel, for TensorRT. Everything else (shapes, types, fields, messages) is one implementation for
// both operators, in cell_plugin.cc.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "cells/contract.h"

namespace xlstm::tensorrt {

struct Cell {
  const Operator& op;
  size_t (*workspace_size)(const Extents& extents);
  cudaError_t (*enqueue)(const Call& call, void* workspace, cudaStream_t stream);
};

extern const Cell kMlstmCell;
extern const Cell kSlstmCell;

}  // namespace xlstm::tensorrt
