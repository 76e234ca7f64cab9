// ai.xlstm::Linear as an ONNX Runtime custom operator: x (rows, K), weight (N, K) and bias (N), which may be absent,
// give y (rows, N). On a CPU (cells/cpu/linear.h); elsewhere the node's definition runs, which is a Gemm.
#pragma once

#include "onnxruntime/custom_op.h"

namespace xlstm::ort {

class LinearOperator : public Operation {
 public:
  LinearOperator(ONNXTensorElementDataType type, uint32_t api_version);

  const ONNXTensorElementDataType type;
};

}  // namespace xlstm::ort
