// ai.xlstm::Linear and LinearWithBias as ONNX Runtime custom operators: x (rows, K), weight (N, K) and bias (N) give
// y (rows, N). On a CPU (cells/cpu/linear.h); elsewhere the node's definition runs, which is a Gemm.
#pragma once

#include "onnxruntime/custom_op.h"

namespace xlstm::ort {

class LinearOperator : public Operation {
 public:
  LinearOperator(ONNXTensorElementDataType type, bool has_bias, uint32_t api_version);

  const ONNXTensorElementDataType type;
  const bool has_bias;
};

}  // namespace xlstm::ort
