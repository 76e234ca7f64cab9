#include "onnxruntime/linear_operator.h"

#include <cstdint>
#include <memory>
#include <string>

#include "cells/cpu/linear.h"
#include "onnxruntime/device.h"
#include "onnxruntime/mapped_weights.h"

namespace xlstm::ort {
namespace {

enum Input : size_t { kX, kWeight, kBias };

const LinearOperator& as_operator(const OrtCustomOp* op) { return *static_cast<const LinearOperator*>(op); }

class LinearKernel {
 public:
  LinearKernel(const LinearOperator& op, const OrtKernelInfo* info) : node_(op.GetName(&op), info) {
    const cpu::LinearArgs layer = read_layer(op, info);
    packed_ = std::make_unique<cpu::PackedLinear>(layer);
    release_mapped(layer.weight, static_cast<size_t>(layer.outputs * layer.inputs * element_size(layer.type)));
  }

  void compute(OrtKernelContext* raw_context) const {
    Ort::KernelContext context(raw_context);
    const Ort::ConstValue x = context.GetInput(kX);
    const Shape shape(x);
    if (shape.size() != 2 || shape[1] != packed_->inputs()) {
      node_.refuse("x must have rows of " + std::to_string(packed_->inputs()) + " inputs");
    }
    void* const y = output(context, 0, {shape[0], packed_->outputs()});
    if (shape[0]) packed_->multiply(shape[0], x.GetTensorRawData(), y, thread_pool(raw_context));
  }

 private:
  cpu::LinearArgs read_layer(const LinearOperator& op, const OrtKernelInfo* info) const {
    const Ort::ConstValue weight = node_.constant(info, kWeight, "weight must be a constant");
    const Shape shape(weight);
    if (shape.size() != 2) node_.refuse("weight must be (outputs, inputs)");
    cpu::LinearArgs layer{data_type(op.type), shape[1], shape[0], weight.GetTensorRawData(), nullptr};
    if (op.has_bias) {
      const Ort::ConstValue bias = node_.constant(info, kBias, "bias must be a constant");
      if (Shape(bias) != Shape{shape[0]}) node_.refuse("bias must have one value an output");
      layer.bias = bias.GetTensorRawData();
    }
    return layer;
  }

  Node node_;
  std::unique_ptr<const cpu::PackedLinear> packed_;
};

}  // namespace

LinearOperator::LinearOperator(ONNXTensorElementDataType type, bool has_bias, uint32_t api_version)
    : Operation(api_version), type(type), has_bias(has_bias) {
  GetName = [](const OrtCustomOp* op) { return as_operator(op).has_bias ? "LinearWithBias" : "Linear"; };
  GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
  GetInputTypeCount = [](const OrtCustomOp* op) -> size_t { return as_operator(op).has_bias ? 3 : 2; };
  GetInputType = [](const OrtCustomOp* op, size_t) { return as_operator(op).type; };
  GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  GetOutputType = [](const OrtCustomOp* op, size_t) { return as_operator(op).type; };
  CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
    return guarded([&] { *kernel = new LinearKernel(as_operator(op), info); });
  };
  KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return guarded([&] { static_cast<const LinearKernel*>(kernel)->compute(context); });
  };
  KernelDestroy = [](void* kernel) { delete static_cast<LinearKernel*>(kernel); };
  InferOutputShapeFn = [](const OrtCustomOp*, OrtShapeInferContext* context) {
    return guarded([&] { set_product_shape(context, 0); });
  };
}

}  // namespace xlstm::ort
