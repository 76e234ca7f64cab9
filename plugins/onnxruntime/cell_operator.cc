#include "onnxruntime/cell_operator.h"

#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace xlstm::ort {
namespace {

using Type = ONNXTensorElementDataType;

const CellOperator& as_operator(const OrtCustomOp* op) { return *static_cast<const CellOperator*>(op); }

const Operator& contract_of(const OrtCustomOp* op) { return as_operator(op).cell.op; }

Type element_type(const OrtCustomOp* op, Element element) {
  switch (element) {
    case Element::kActivation:
      return as_operator(op).types.activation;
    case Element::kRecurrent:
      return as_operator(op).types.recurrent;
    case Element::kMemory:
      return as_operator(op).types.memory;
    case Element::kFloat:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case Element::kInt32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case Element::kInt64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

// ---- Shape inference: the runtime then knows every shape ahead, and can plan which state takes over which buffer.

struct Axis {
  bool known = false;
  int64_t extent = kUnknown;  // unknown: `name` may say what it is the same as
  const char* name = "";      // stays the runtime's
};

// What an input's shape tells of its letters. A shape that is not known has no axes.
void learn_axes(const TensorSpec& spec, const OrtTensorTypeAndShapeInfo* info, ByLetter<Axis>& axes) {
  const OrtApi& api = Ort::GetApi();
  size_t rank = 0;
  Ort::ThrowOnError(api.GetDimensionsCount(info, &rank));
  if (rank != std::strlen(spec.shape)) return;
  std::vector<int64_t> extents(rank);
  std::vector<const char*> names(rank);
  Ort::ThrowOnError(api.GetDimensions(info, extents.data(), rank));
  Ort::ThrowOnError(api.GetSymbolicDimensions(info, names.data(), rank));
  for (size_t axis = 0; axis < rank; ++axis) {
    const char letter = spec.shape[axis];
    if (!is_letter(letter) || axes[letter].extent != kUnknown) continue;
    if (!axes[letter].known || extents[axis] >= 0) axes[letter] = {true, extents[axis], names[axis]};
  }
}

void set_output_axes(OrtShapeInferContext* context, size_t index, Type type, const char* shape,
                     const ByLetter<Axis>& axes) {
  std::vector<int64_t> extents;
  std::vector<const char*> names;
  for (; *shape; ++shape) {
    if (!axes[*shape].known) return;
    extents.push_back(axes[*shape].extent);
    names.push_back(axes[*shape].name);
  }
  set_output_shape(context, index, type, extents, names);
}

void infer_shapes(const Operator& op, OrtShapeInferContext* context) {
  const OrtApi& api = Ort::GetApi();
  ByLetter<Axis> axes{Axis{}};
  Type activation = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, memory = activation;
  for (size_t index = 0; index + op.optional < op.inputs.size(); ++index) {  // what may be absent tells nothing more
    OrtTensorTypeAndShapeInfo* info = nullptr;                               // stays the context's
    Ort::ThrowOnError(api.ShapeInferContext_GetInputTypeShape(context, index, &info));
    const Element element = op.inputs[index].element;
    if (element == Element::kActivation) Ort::ThrowOnError(api.GetTensorElementType(info, &activation));
    if (element == Element::kMemory) Ort::ThrowOnError(api.GetTensorElementType(info, &memory));
    learn_axes(op.inputs[index], info, axes);
  }
  for (size_t index = 0; index < op.outputs.size(); ++index) {
    const TensorSpec& spec = op.outputs[index];
    Type type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    if (spec.element == Element::kActivation) type = activation;
    if (spec.element == Element::kMemory) type = memory;
    if (spec.element == Element::kInt64) type = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    set_output_axes(context, index, type, spec.shape, axes);
  }
}

// ---- The kernel of one node

std::string format(const Shape& shape) {
  std::string text = "(";
  for (size_t axis = 0; axis < shape.size(); ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + ")";
}

class CellKernel {
 public:
  CellKernel(const CellOperator& op, const OrtKernelInfo* raw_info) : op_(op), node_(op.cell.op.name, raw_info) {
    const Operator& contract = op.cell.op;
    call_.type = data_type(op.types.activation);
    call_.recurrent_type = data_type(op.types.recurrent);
    call_.memory_type = data_type(op.types.memory);
    for (size_t i = 0; i < contract.attributes.size(); ++i) {
      const Attribute& attribute = contract.attributes[i];
      if (attribute.extent) {
        call_.extents[attribute.extent] = attribute_extent(raw_info, attribute);
      } else {
        call_.attributes[i] = attribute_value(raw_info, attribute);
      }
    }
    const Ort::ConstKernelInfo info(raw_info);  // gone when this returns
    for (size_t i = 0; i < std::min(contract.inputs.size(), info.GetInputCount()); ++i) {
      if (!take_constant(info, i)) given_.push_back(i);
    }
    if (op.cell.prepare) {
      prepared_ = op.cell.prepare(op.device, call_);
      if (!prepared_) node_.refuse("its weights must be constants");
      call_.prepared = prepared_.get();
    }
  }

  void compute(OrtKernelContext* raw_context) const {
    const Ort::KernelContext context(raw_context);
    const Operator& contract = op_.cell.op;
    Call call = call_;
    for (const size_t i : given_) {
      const Ort::ConstValue value = context.GetInput(i);
      if (value) take_input(i, value, call);  // `lengths` may be absent
    }
    if (contract.derive != nullptr && !contract.derive(call.extents)) {
      node_.refuse("the shapes of its inputs do not fit together");
    }
    for (size_t i = 0; i < contract.outputs.size(); ++i) {
      call.outputs[i] = output(context, i, shape_of(contract.outputs[i], call.extents));
    }
    op_.cell.run(op_.device, call, raw_context);
  }

 private:
  // A node may leave an attribute out. An attribute that is there with another type would silently mean the default.
  float attribute_value(const OrtKernelInfo* info, const Attribute& attribute) const {
    const OrtApi& api = Ort::GetApi();
    float value = 0;
    if (!Ort::Status(api.KernelInfoGetAttribute_float(info, attribute.name, &value)).IsOK()) {
      int64_t integer = 0;
      if (Ort::Status(api.KernelInfoGetAttribute_int64(info, attribute.name, &integer)).IsOK()) {
        node_.refuse(std::string("attribute ") + attribute.name + " is an integer; it must be a float",
                     ORT_INVALID_GRAPH);
      }
      return attribute.fallback;
    }
    if (!std::isfinite(value) || value < attribute.minimum) {
      node_.refuse(std::string("attribute ") + attribute.name + " = " + std::to_string(value) +
                       " is not a finite number of at least " + std::to_string(attribute.minimum),
                   ORT_INVALID_GRAPH);
    }
    return value;
  }

  int64_t attribute_extent(const OrtKernelInfo* info, const Attribute& attribute) const {
    int64_t value = 0;
    if (!Ort::Status(Ort::GetApi().KernelInfoGetAttribute_int64(info, attribute.name, &value)).IsOK() || value < 1) {
      node_.refuse(std::string("attribute ") + attribute.name + " must be a positive integer", ORT_INVALID_GRAPH);
    }
    return value;
  }

  bool take_constant(const Ort::ConstKernelInfo& info, size_t index) {
    if (!op_.device.constants_first) return false;
    int is_constant = 0;
    const Ort::ConstValue value = info.GetTensorConstantInput(index, &is_constant);
    if (is_constant) take_input(index, value, call_);
    return is_constant;
  }

  void take_input(size_t index, const Ort::ConstValue& value, Call& call) const {
    check_shape(op_.cell.op.inputs[index], Shape(value), call.extents);
    call.inputs[index] = value.GetTensorRawData();
  }

  // Holds a shape against its letters, and adds what it tells to `extents`.
  void check_shape(const TensorSpec& spec, const Shape& actual, Extents& extents) const {
    const size_t rank = std::strlen(spec.shape);
    for (size_t axis = 0; axis < rank && actual.size() == rank; ++axis) {
      const char letter = spec.shape[axis];
      if (is_letter(letter) && extents[letter] == kUnknown) extents[letter] = actual[axis];
    }
    const Shape expected = shape_of(spec, extents);
    if (actual != expected) {
      node_.refuse(std::string("input ") + spec.name + " has shape " + format(actual) +
                   (actual.size() == rank ? ", the others ask for " + format(expected)
                                          : ", it must have the axes " + std::string(spec.shape)));
    }
  }

  static Shape shape_of(const TensorSpec& spec, const Extents& extents) {
    Shape shape;
    for (const char* axis = spec.shape; *axis; ++axis) shape.push_back(is_letter(*axis) ? extents[*axis] : *axis - '0');
    return shape;
  }

  const CellOperator& op_;
  Node node_;
  Call call_;  // attributes, types and constant inputs; the rest is filled in at each call
  std::vector<size_t> given_;
  std::shared_ptr<const void> prepared_;
};

// ---- What may reuse what: each state output its input. ONNX Runtime's callback names no operator, so each has its
// own.

template <const Operator& op>
size_t may_reuse(int** inputs, int** outputs) noexcept {
  const size_t count = op.states;
  *inputs = new int[count];
  *outputs = new int[count];
  for (size_t state = 0; state < count; ++state) {
    (*inputs)[state] = static_cast<int>(op.first_state + state);
    (*outputs)[state] = static_cast<int>(1 + state);
  }
  return count;
}

void release_reuse(int* inputs, int* outputs) noexcept {
  delete[] inputs;
  delete[] outputs;
}

void run_mlstm(const Device& device, const Call& call, OrtKernelContext* context) {
  device.mlstm(mlstm_args(call), context);
}

void run_slstm(const Device& device, const Call& call, OrtKernelContext* context) {
  device.slstm(slstm_args(call), context);
}

void run_causal_conv(const Device& device, const Call& call, OrtKernelContext* context) {
  device.causal_conv(causal_conv_args(call), context);
}

void run_mlstm_projections(const Device& device, const Call& call, OrtKernelContext* context) {
  device.mlstm_projections(mlstm_projections_args(call), context);
}

std::shared_ptr<const void> prepare_slstm_projections(const Device& device, const Call& call) {
  const SlstmProjectionsArgs args = slstm_projections_args(call);
  for (const void* weight : {args.i_weight, args.f_weight, args.z_weight, args.o_weight}) {
    if (weight == nullptr) return nullptr;
  }
  return device.pack_slstm_projections(args);
}

void run_slstm_projections(const Device& device, const Call& call, OrtKernelContext* context) {
  const auto& packed = *static_cast<const cpu::PackedLinear*>(call.prepared);
  device.slstm_projections(slstm_projections_args(call), packed, context);
}

void run_mlstm_heads(const Device& device, const Call& call, OrtKernelContext* context) {
  device.mlstm_heads(mlstm_heads_args(call), context);
}

void run_head_norm(const Device& device, const Call& call, OrtKernelContext* context) {
  device.head_norm(head_norm_args(call), context);
}

template <bool centred>
void run_add_norm(const Device& device, const Call& call, OrtKernelContext* context) {
  device.add_norm(add_norm_args(call, centred), context);
}

template <bool gelu>
void run_gated_linear_unit(const Device& device, const Call& call, OrtKernelContext* context) {
  device.gated_linear_unit(gated_linear_unit_args(call, gelu), context);
}

void run_soft_cap(const Device& device, const Call& call, OrtKernelContext* context) {
  device.soft_cap(soft_cap_args(call), context);
}

void run_valid_tokens(const Device& device, const Call& call, OrtKernelContext*) {
  device.valid_tokens(valid_tokens_args(call));
}

void run_last_positions(const Device& device, const Call& call, OrtKernelContext*) {
  device.last_positions(last_positions_args(call));
}

}  // namespace

const Cell kMlstmCell{kMlstm, run_mlstm, may_reuse<kMlstm>};
const Cell kSlstmCell{kSlstm, run_slstm, may_reuse<kSlstm>};
const Cell kCausalConvLayer{kCausalConv, run_causal_conv, may_reuse<kCausalConv>};
const Cell kMlstmProjectionsLayer{kMlstmProjections, run_mlstm_projections, may_reuse<kMlstmProjections>};
const Cell kSlstmProjectionsLayer{kSlstmProjections, run_slstm_projections, may_reuse<kSlstmProjections>,
                                  prepare_slstm_projections};
const Cell kMlstmHeadsLayer{kMlstmHeads, run_mlstm_heads, may_reuse<kMlstmHeads>};
const Cell kHeadNormLayer{kHeadNorm, run_head_norm, may_reuse<kHeadNorm>};
const Cell kGatedHeadNormLayer{kGatedHeadNorm, run_head_norm, may_reuse<kGatedHeadNorm>};
const Cell kSkipGatedHeadNormLayer{kSkipGatedHeadNorm, run_head_norm, may_reuse<kSkipGatedHeadNorm>};
const Cell kAddLayerNormLayer{kAddLayerNorm, run_add_norm<true>, may_reuse<kAddLayerNorm>};
const Cell kAddRmsNormLayer{kAddRmsNorm, run_add_norm<false>, may_reuse<kAddRmsNorm>};
const Cell kGegluLayer{kGeglu, run_gated_linear_unit<true>, may_reuse<kGeglu>};
const Cell kSwigluLayer{kSwiglu, run_gated_linear_unit<false>, may_reuse<kSwiglu>};
const Cell kSoftCapLayer{kSoftCap, run_soft_cap, may_reuse<kSoftCap>};
const Cell kValidTokensLayer{kValidTokens, run_valid_tokens, may_reuse<kValidTokens>};
const Cell kLastPositionsLayer{kLastPositions, run_last_positions, may_reuse<kLastPositions>};

CellOperator::CellOperator(const Cell& cell, Types types, const Device& device, uint32_t api_version)
    : Operation(api_version), cell(cell), types(types), device(device) {
  GetName = [](const OrtCustomOp* op) { return contract_of(op).name; };
  GetExecutionProviderType = [](const OrtCustomOp* op) { return as_operator(op).device.execution_provider; };
  GetInputTypeCount = [](const OrtCustomOp* op) { return contract_of(op).inputs.size(); };
  GetInputType = [](const OrtCustomOp* op, size_t index) {
    return element_type(op, contract_of(op).inputs[index].element);
  };
  GetInputCharacteristic = [](const OrtCustomOp* op, size_t index) {
    const Operator& contract = contract_of(op);
    return index + contract.optional < contract.inputs.size() ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  GetOutputTypeCount = [](const OrtCustomOp* op) { return contract_of(op).outputs.size(); };
  GetOutputType = [](const OrtCustomOp* op, size_t index) {
    return element_type(op, contract_of(op).outputs[index].element);
  };
  CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
    return guarded([&] { *kernel = new CellKernel(as_operator(op), info); });
  };
  KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return guarded([&] { static_cast<const CellKernel*>(kernel)->compute(context); });
  };
  KernelDestroy = [](void* kernel) { delete static_cast<CellKernel*>(kernel); };
  InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
    return guarded([&] { infer_shapes(contract_of(op), context); });
  };
  GetMayInplace = cell.may_reuse;
  ReleaseMayInplace = release_reuse;
}

}  // namespace xlstm::ort
