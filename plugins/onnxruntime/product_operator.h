// ai.xlstm::QuantizedMatMul as an ONNX Runtime custom operator: x (.., K), codes (K, N) and scales (blocks, N) give
// y (.., N). On CPUs that have what it takes (cells/cpu/quantized_product.h); elsewhere the node's definition runs, in
// which ONNX Runtime finds its own product with codes.
#pragma once

#include <vector>

#include "onnxruntime/custom_op.h"

namespace xlstm::ort {

// One combination of types.
class ProductOperator : public Operation {
 public:
  struct Types {
    ONNXTensorElementDataType activation, codes, scales;
  };

  ProductOperator(Types types, uint32_t api_version);

  const Types types;
};

// Every combination there is.
std::vector<ProductOperator::Types> product_types();

}  // namespace xlstm::ort
