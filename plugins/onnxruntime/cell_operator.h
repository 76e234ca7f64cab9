// The operators of cells/contract.h as ONNX Runtime custom operators: one OrtCustomOp for each operator, device and
// combination of types. ONNX Runtime merges operators of one name into one schema whose types are the union, and then
// takes the kernel whose types fit the node.
#pragma once

#include <onnxruntime_cxx_api.h>

#include "cells/layer_contract.h"
#include "onnxruntime/device.h"

namespace xlstm::ort {

constexpr uint32_t kOldestApi = 18;  // the first with outputs that may reuse an input's buffer
constexpr uint32_t kCustomOpApi = ORT_API_VERSION < kOldestApi ? kOldestApi : ORT_API_VERSION;  // of CustomOp

#if ORT_API_VERSION < 18
// The headers may be a version older than that: it appended these members, which ONNX Runtime reads where `version`
// says that they are there.
struct CustomOp : OrtCustomOp {
  size_t(ORT_API_CALL* GetMayInplace)(int** inputs, int** outputs);
  void(ORT_API_CALL* ReleaseMayInplace)(int* inputs, int* outputs);
  size_t(ORT_API_CALL* GetAliasMap)(int** inputs, int** outputs);
  void(ORT_API_CALL* ReleaseAliasMap)(int* inputs, int* outputs);
};
#else
using CustomOp = OrtCustomOp;
#endif

// An operator and how a device runs it.
struct Cell {
  const Operator& op;
  void (*run)(const Device& device, const Call& call, OrtKernelContext* context);
  size_t (*may_reuse)(int** inputs, int** outputs);
};

extern const Cell kMlstmCell;
extern const Cell kSlstmCell;
extern const Cell kCausalConvLayer, kMlstmProjectionsLayer, kGatedHeadNormLayer, kSkipGatedHeadNormLayer;  // CPU only

// One combination of types.
struct Types {
  ONNXTensorElementDataType activation, recurrent, memory;  // an operator has but one of the last two
};

class CellOperator : public CustomOp {
 public:
  // api_version: of the ONNX Runtime that loads the library.
  CellOperator(const Cell& cell, Types types, const Device& device, uint32_t api_version);

  const Cell& cell;
  const Types types;
  const Device& device;
};

}  // namespace xlstm::ort
