#include "onnxruntime/product_operator.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cells/cpu/quantized_product.h"
#include "onnxruntime/device.h"
#include "onnxruntime/mapped_weights.h"

namespace xlstm::ort {
namespace {

using Type = ONNXTensorElementDataType;

constexpr auto kInt4 = static_cast<Type>(22);  // ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4, which older headers lack
constexpr auto kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
enum Input : size_t { kX, kCodes, kScales, kInputs };

const ProductOperator& as_operator(const OrtCustomOp* op) { return *static_cast<const ProductOperator*>(op); }

class ProductKernel {
 public:
  ProductKernel(const ProductOperator& op, const OrtKernelInfo* info)
      : node_(op.GetName(&op), info), type_(data_type(op.types.activation)) {
    const Ort::ConstValue codes = node_.constant(info, kCodes, "codes must be constants");
    const Ort::ConstValue scales = node_.constant(info, kScales, "scales must be constants");
    const Shape codes_shape(codes), scales_shape(scales);
    cpu::QuantizedMatrix matrix{};
    matrix.block = Ort::ConstKernelInfo(info).GetAttribute<int64_t>("block_size");
    if (codes_shape.size() != 2 || matrix.block < 8 || matrix.block % 8 != 0) {
      node_.refuse("codes must be (inputs, outputs), and block_size a multiple of 8");
    }
    matrix.inputs = codes_shape[0];
    matrix.outputs = codes_shape[1];
    const int64_t blocks = (matrix.inputs + matrix.block - 1) / matrix.block;
    if (scales_shape != Shape{blocks, matrix.outputs}) node_.refuse("scales must have one row for each block of codes");
    matrix.bits = op.types.codes == kInt4 ? 4 : 8;
    matrix.scale_type = data_type(op.types.scales);
    matrix.codes = codes.GetTensorRawData();
    matrix.scales = scales.GetTensorRawData();
    matrix_ = std::make_unique<cpu::PackedMatrix>(matrix);
    release_mapped(matrix.codes, static_cast<size_t>(matrix.inputs * matrix.outputs * matrix.bits / 8));
  }

  void compute(OrtKernelContext* raw_context) const {
    Ort::KernelContext context(raw_context);
    const Ort::ConstValue x = context.GetInput(kX);
    Shape shape(x);
    if (shape.empty() || shape.back() != matrix_->inputs()) {
      node_.refuse("x must have " + std::to_string(matrix_->inputs()) + " inputs");
    }
    shape.back() = 1;
    int64_t rows = 1;
    for (const int64_t extent : shape) rows *= extent;
    shape.back() = matrix_->outputs();
    void* const y = output(context, 0, shape);
    if (rows) matrix_->multiply(type_, rows, x.GetTensorRawData(), y, thread_pool(raw_context));
  }

 private:
  Node node_;
  DataType type_;
  std::unique_ptr<const cpu::PackedMatrix> matrix_;
};

}  // namespace

ProductOperator::ProductOperator(Types types, uint32_t api_version) : Operation(api_version), types(types) {
  GetName = [](const OrtCustomOp*) { return "QuantizedMatMul"; };
  GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
  GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kInputs; };
  GetInputType = [](const OrtCustomOp* op, size_t index) {
    const Types& types = as_operator(op).types;
    return index == kX ? types.activation : index == kCodes ? types.codes : types.scales;
  };
  GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  GetOutputType = [](const OrtCustomOp* op, size_t) { return as_operator(op).types.activation; };
  CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
    return guarded([&] { *kernel = new ProductKernel(as_operator(op), info); });
  };
  KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return guarded([&] { static_cast<const ProductKernel*>(kernel)->compute(context); });
  };
  KernelDestroy = [](void* kernel) { delete static_cast<ProductKernel*>(kernel); };
  InferOutputShapeFn = [](const OrtCustomOp*, OrtShapeInferContext* context) {
    return guarded([&] { set_product_shape(context, 1); });
  };
}

std::vector<ProductOperator::Types> product_types() {
  const auto floats = {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
                       ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16};
  std::vector<ProductOperator::Types> all;
  for (const auto activation : floats) {
    for (const auto codes : {kInt4, kInt8}) {
      for (const auto scales : floats) all.push_back({activation, codes, scales});
    }
  }
  return all;
}

}  // namespace xlstm::ort
