// The operators of cells/contract.h as ONNX Runtime custom operators: one OrtCustomOp for each operator, device and
// combination of types. ONNX Runtime merges operators of one name into one schema whose types are the union, and then
// takes the kernel whose types fit the node.
#pragma once

#include <memory>

#include "cells/layer_contract.h"
#include "onnxruntime/custom_op.h"
#include "onnxruntime/device.h"

namespace xlstm::ort {

// An operator and how a device runs it.
struct Cell {
  const Operator& op;
  void (*run)(const Device& device, const Call& call, OrtKernelContext* context);
  size_t (*may_reuse)(int** inputs, int** outputs);
  // What the kernel of a node makes of its constant inputs, once; null where they are none.
  std::shared_ptr<const void> (*prepare)(const Device& device, const Call& call) = nullptr;
};

extern const Cell kMlstmCell;
extern const Cell kSlstmCell;
// On a CPU only.
extern const Cell kCausalConvLayer, kMlstmProjectionsLayer, kSlstmProjectionsLayer, kMlstmHeadsLayer;
extern const Cell kHeadNormLayer, kGatedHeadNormLayer, kSkipGatedHeadNormLayer;
extern const Cell kAddLayerNormLayer, kAddRmsNormLayer, kGegluLayer, kSwigluLayer, kSoftCapLayer;
extern const Cell kValidTokensLayer, kLastPositionsLayer;

// One combination of types.
struct Types {
  ONNXTensorElementDataType activation, recurrent, memory;  // an operator has but one of the last two
};

class CellOperator : public Operation {
 public:
  CellOperator(const Cell& cell, Types types, const Device& device, uint32_t api_version);

  const Cell& cell;
  const Types types;
  const Device& device;
};

}  // namespace xlstm::ort
