// A linear layer on a CPU: y = x W^T + b. Sums are in float32, whatever x, W and y are stored in.
#pragma once

#include <cstdint>
#include <memory>

#include "cells/cells.h"
#include "cells/cpu/cpu_cells.h"

namespace xlstm::cpu {

// The layer as PyTorch and ONNX's Gemm (transB) store it, or several of one size side by side: a group each.
struct LinearArgs {
  DataType type;            // of weights and bias
  int64_t inputs, outputs;  // of a group
  const void* weight;       // (groups, outputs, inputs)
  const void* bias;         // (groups, outputs), or null
  int64_t groups = 1;
};

// Rows that a layer multiplies, and where its products go. Of each group the first element of the first row; rows are
// so many elements apart.
struct LinearRows {
  int64_t count;
  DataType x_type, y_type;
  const void* const* x;
  void* const* y;
  int64_t x_stride, y_stride;
};

// What one instruction set does. Internal to linear.cc.
struct LinearKernel {
  int64_t panel;  // outputs of a panel
  void (*pack)(const LinearArgs& layer, uint8_t* panels);
  void (*multiply)(const LinearArgs& layer, const uint8_t* panels, const float* bias, const LinearRows& rows,
                   const ParallelFor& parallel_for);
};

// A copy of the layer's weights in the order in which its product reads them, whatever became of the originals. Any
// number of threads may share it.
class PackedLinear {
 public:
  explicit PackedLinear(const LinearArgs& layer);  // throws std::bad_alloc

  // Every element is summed in one order, so repeated calls give the same bits, whatever `parallel_for` does, and each
  // row what it gets alone. Throws std::bad_alloc, for a scratch buffer where x is larger than some rows.
  void multiply(const LinearRows& rows, const ParallelFor& parallel_for) const;
  // Of one group: contiguous rows of x (rows, inputs) and y (rows, outputs), of the weights' type.
  void multiply(int64_t rows, const void* x, void* y, const ParallelFor& parallel_for) const;

  int64_t inputs() const { return layer_.inputs; }
  int64_t outputs() const { return layer_.outputs; }

 private:
  LinearArgs layer_;  // without its pointers
  LinearKernel kernel_;
  std::shared_ptr<uint8_t> panels_;
  std::unique_ptr<float[]> bias_;  // of each group filled up to whole panels
};

}  // namespace xlstm::cpu
