#include "onnxruntime/cell_operator.h"

#include <array>
#include <cinttypes>
#include <memory>
#include <string>
#include <vector>

namespace xlstm::ort {
namespace {

using Type = ONNXTensorElementDataType;
using Shape = std::vector<int64_t>;

// ---- The contract of each operator (xlstm_export/graph/functions.py), in the order of its inputs and outputs.

enum class Slot { kActivation, kRecurrent, kFloat, kLengths };

struct Contract {
  const char* name;
  std::vector<Slot> inputs, outputs;
  // Which outputs may take over which inputs' buffers: the states, next for old.
  std::vector<int> state_inputs, state_outputs;
};

const Contract& contract(Cell cell) {
  constexpr Slot T = Slot::kActivation, R = Slot::kRecurrent, F = Slot::kFloat, L = Slot::kLengths;
  // q k v i f C n m lengths -> h C n m
  static const Contract mlstm{"MLSTMCell", {T, T, T, T, T, F, F, F, L}, {T, F, F, F}, {5, 6, 7}, {1, 2, 3}};
  // x R b y c n m lengths -> hidden y c n m
  static const Contract slstm{"SLSTMCell", {T, R, F, F, F, F, F, L}, {T, F, F, F, F}, {3, 4, 5, 6}, {1, 2, 3, 4}};
  return cell == Cell::kMlstm ? mlstm : slstm;
}

const CellOperator& as_operator(const OrtCustomOp* op) { return *static_cast<const CellOperator*>(op); }

Type slot_type(const CellOperator& op, Slot slot) {
  switch (slot) {
    case Slot::kActivation:
      return op.type;
    case Slot::kRecurrent:
      return op.recurrent_type;
    case Slot::kFloat:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case Slot::kLengths:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

OrtCustomOpInputOutputCharacteristic characteristic(Slot slot) {
  return slot == Slot::kLengths ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}

DataType data_type(Type type) {
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) return DataType::kFloat16;
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16) return DataType::kBFloat16;
  return DataType::kFloat32;
}

// Nothing may be thrown into ONNX Runtime.
template <class Function>
OrtStatusPtr guarded(const Function& function) noexcept {
  try {
    function();
    return nullptr;
  } catch (const Ort::Exception& error) {
    return Ort::GetApi().CreateStatus(error.GetOrtErrorCode(), error.what());
  } catch (const std::exception& error) {
    return Ort::GetApi().CreateStatus(ORT_FAIL, error.what());
  }
}

// ---- Shape inference: the runtime then knows every shape ahead, and can plan which state takes over which buffer.

// h has the shape of v, hidden that of x without its gate axis; every next state has the shape of the old one.
void infer_hidden_shape(OrtShapeInferContext* context, const OrtTensorTypeAndShapeInfo* x) {
  const OrtApi& api = Ort::GetApi();
  size_t rank = 0;
  Ort::ThrowOnError(api.GetDimensionsCount(x, &rank));
  if (rank != 5) return;
  std::array<int64_t, 5> dims{};
  std::array<const char*, 5> names{};
  Type type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  Ort::ThrowOnError(api.GetDimensions(x, dims.data(), rank));
  Ort::ThrowOnError(api.GetSymbolicDimensions(x, names.data(), rank));
  Ort::ThrowOnError(api.GetTensorElementType(x, &type));
  std::array<int64_t, 4> hidden_dims{dims[0], dims[1], dims[3], dims[4]};
  std::array<const char*, 4> hidden_names{names[0], names[1], names[3], names[4]};
  OrtTensorTypeAndShapeInfo* info = nullptr;
  Ort::ThrowOnError(api.CreateTensorTypeAndShapeInfo(&info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api.ReleaseTensorTypeAndShapeInfo)> hidden(
      info, api.ReleaseTensorTypeAndShapeInfo);
  Ort::ThrowOnError(api.SetTensorElementType(info, type));
  Ort::ThrowOnError(api.SetDimensions(info, hidden_dims.data(), hidden_dims.size()));
  Ort::ThrowOnError(api.SetSymbolicDimensions(info, hidden_names.data(), hidden_names.size()));
  Ort::ThrowOnError(api.ShapeInferContext_SetOutputTypeShape(context, 0, info));
}

void infer_shapes(Cell cell, OrtShapeInferContext* context) {
  const OrtApi& api = Ort::GetApi();
  const auto input = [&](int index) {
    OrtTensorTypeAndShapeInfo* info = nullptr;  // stays the context's
    Ort::ThrowOnError(api.ShapeInferContext_GetInputTypeShape(context, static_cast<size_t>(index), &info));
    return info;
  };
  const auto copy = [&](int from, int to) {
    size_t rank = 0;
    Ort::ThrowOnError(api.GetDimensionsCount(input(from), &rank));
    if (rank == 0) return;  // shape unknown
    Ort::ThrowOnError(api.ShapeInferContext_SetOutputTypeShape(context, static_cast<size_t>(to), input(from)));
  };
  const Contract& names = contract(cell);
  for (size_t state = 0; state < names.state_inputs.size(); ++state) {
    copy(names.state_inputs[state], names.state_outputs[state]);
  }
  if (cell == Cell::kMlstm) {
    copy(2, 0);
  } else {
    infer_hidden_shape(context, input(0));
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
  CellKernel(const CellOperator& op, const OrtKernelInfo* raw_info) : op_(op) {
    const Ort::ConstKernelInfo info(raw_info);  // gone when this returns
    node_ = std::string(contract(op.cell).name) + " '" + info.GetNodeName() + "'";
    const auto attribute = [&](const char* name, float missing) { return float_attribute(raw_info, name, missing); };
    if (op.cell == Cell::kMlstm) {
      mlstm_.type = data_type(op.type);
      mlstm_.q_scale = attribute("q_scale", 1.0f);
      mlstm_.k_scale = attribute("k_scale", 1.0f);
      mlstm_.gate_soft_cap = attribute("gate_soft_cap", 0.0f);
      mlstm_.eps = attribute("eps", 1e-6f);
    } else {
      slstm_.type = data_type(op.type);
      slstm_.recurrent_type = data_type(op.recurrent_type);
      slstm_.forget_clamp = attribute("forget_clamp", 0.0f);
    }
  }

  void compute(OrtKernelContext* context) const {
    if (op_.cell == Cell::kMlstm) {
      compute_mlstm(context);
    } else {
      compute_slstm(context);
    }
  }

 private:
  // A node may leave an attribute out. An attribute that is there with another type would silently mean the default.
  float float_attribute(const OrtKernelInfo* info, const char* name, float missing) const {
    const OrtApi& api = Ort::GetApi();
    float value = missing;
    const Ort::Status status(api.KernelInfoGetAttribute_float(info, name, &value));
    if (status.IsOK()) return value;
    int64_t integer = 0;
    if (Ort::Status(api.KernelInfoGetAttribute_int64(info, name, &integer)).IsOK()) {
      throw Ort::Exception(node_ + ": attribute " + name + " is an integer; it must be a float", ORT_INVALID_GRAPH);
    }
    return missing;
  }

  Shape shape(const Ort::KernelContext& context, size_t index) const {
    return context.GetInput(index).GetTensorTypeAndShapeInfo().GetShape();
  }

  const void* input(const Ort::KernelContext& context, size_t index, const char* name, const Shape& expected) const {
    const Shape actual = shape(context, index);
    if (actual != expected) {
      throw Ort::Exception(
          node_ + ": input " + name + " has shape " + format(actual) + ", the others ask for " + format(expected),
          ORT_INVALID_ARGUMENT);
    }
    return context.GetInput(index).GetTensorRawData();
  }

  const float* floats(const Ort::KernelContext& context, size_t index, const char* name, const Shape& expected) const {
    return static_cast<const float*>(input(context, index, name, expected));
  }

  const int32_t* lengths(const Ort::KernelContext& context, size_t index, int64_t batch) const {
    if (index >= context.GetInputCount() || !context.GetInput(index)) return nullptr;
    return static_cast<const int32_t*>(input(context, index, "lengths", {batch}));
  }

  void* output(Ort::KernelContext& context, size_t index, const Shape& shape) const {
    return context.GetOutput(index, shape).GetTensorMutableRawData();
  }

  void expect_rank(const Shape& actual, size_t rank, const char* name, const char* axes) const {
    if (actual.size() == rank) return;
    throw Ort::Exception(node_ + ": input " + name + " has shape " + format(actual) + ", it must be " + axes,
                         ORT_INVALID_ARGUMENT);
  }

  void compute_mlstm(OrtKernelContext* raw_context) const {
    Ort::KernelContext context(raw_context);
    const Shape q = shape(context, 0), v = shape(context, 2);
    expect_rank(q, 4, "q", "(B, S, H, DK)");
    expect_rank(v, 4, "v", "(B, S, H, DV)");
    const int64_t B = q[0], S = q[1], H = q[2], DK = q[3], DV = v[3];
    const Shape gate{B, S, H}, C{B, H, DK, DV}, n{B, H, DK}, m{B, H}, h{B, S, H, DV};
    MlstmArgs args = mlstm_;
    args.batch = B, args.sequence = S, args.heads = H, args.dim_qk = DK, args.dim_v = DV;
    args.q = input(context, 0, "q", q);
    args.k = input(context, 1, "k", q);
    args.v = input(context, 2, "v", h);
    args.i = input(context, 3, "i", gate);
    args.f = input(context, 4, "f", gate);
    args.C_in = floats(context, 5, "C", C);
    args.n_in = floats(context, 6, "n", n);
    args.m_in = floats(context, 7, "m", m);
    args.lengths = lengths(context, 8, B);
    args.h = output(context, 0, h);
    args.C_out = static_cast<float*>(output(context, 1, C));
    args.n_out = static_cast<float*>(output(context, 2, n));
    args.m_out = static_cast<float*>(output(context, 3, m));
    op_.device.mlstm(args, raw_context);
  }

  void compute_slstm(OrtKernelContext* raw_context) const {
    Ort::KernelContext context(raw_context);
    const Shape x = shape(context, 0);
    expect_rank(x, 5, "x", "(B, S, 4, H, DH)");
    const int64_t B = x[0], S = x[1], H = x[3], D = x[4];
    const Shape state{B, H, D};
    SlstmArgs args = slstm_;
    args.batch = B, args.sequence = S, args.heads = H, args.dim = D;
    args.x = input(context, 0, "x", {B, S, 4, H, D});
    args.R = input(context, 1, "R", {H, 4, D, D});
    args.b = floats(context, 2, "b", {4, H, D});
    args.y_in = floats(context, 3, "y", state);
    args.c_in = floats(context, 4, "c", state);
    args.n_in = floats(context, 5, "n", state);
    args.m_in = floats(context, 6, "m", state);
    args.lengths = lengths(context, 7, B);
    args.hidden = output(context, 0, {B, S, H, D});
    args.y_out = static_cast<float*>(output(context, 1, state));
    args.c_out = static_cast<float*>(output(context, 2, state));
    args.n_out = static_cast<float*>(output(context, 3, state));
    args.m_out = static_cast<float*>(output(context, 4, state));
    op_.device.slstm(args, raw_context);
  }

  const CellOperator& op_;
  std::string node_;   // for messages
  MlstmArgs mlstm_{};  // attributes and types; the rest is filled in at each call
  SlstmArgs slstm_{};
};

// ---- What may reuse what. ONNX Runtime's callback names no operator, so each cell has its own.

template <Cell cell>
size_t may_reuse(int** inputs, int** outputs) noexcept {
  const Contract& names = contract(cell);
  const size_t count = names.state_inputs.size();
  *inputs = new int[count];
  *outputs = new int[count];
  std::copy(names.state_inputs.begin(), names.state_inputs.end(), *inputs);
  std::copy(names.state_outputs.begin(), names.state_outputs.end(), *outputs);
  return count;
}

void release_reuse(int* inputs, int* outputs) noexcept {
  delete[] inputs;
  delete[] outputs;
}

}  // namespace

CellOperator::CellOperator(Cell cell, Type type, Type recurrent_type, const Device& device, uint32_t api_version)
    : CustomOp{}, cell(cell), type(type), recurrent_type(recurrent_type), device(device) {
  OrtCustomOp::version = api_version;
  GetName = [](const OrtCustomOp* op) { return contract(as_operator(op).cell).name; };
  GetExecutionProviderType = [](const OrtCustomOp* op) { return as_operator(op).device.execution_provider; };
  GetInputTypeCount = [](const OrtCustomOp* op) { return contract(as_operator(op).cell).inputs.size(); };
  GetInputType = [](const OrtCustomOp* op, size_t index) {
    return slot_type(as_operator(op), contract(as_operator(op).cell).inputs[index]);
  };
  GetInputCharacteristic = [](const OrtCustomOp* op, size_t index) {
    return characteristic(contract(as_operator(op).cell).inputs[index]);
  };
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  GetOutputTypeCount = [](const OrtCustomOp* op) { return contract(as_operator(op).cell).outputs.size(); };
  GetOutputType = [](const OrtCustomOp* op, size_t index) {
    return slot_type(as_operator(op), contract(as_operator(op).cell).outputs[index]);
  };
  GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  GetStartVersion = [](const OrtCustomOp*) { return 1; };
  GetEndVersion = [](const OrtCustomOp*) { return 1; };
  CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
    return guarded([&] { *kernel = new CellKernel(as_operator(op), info); });
  };
  KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return guarded([&] { static_cast<const CellKernel*>(kernel)->compute(context); });
  };
  KernelDestroy = [](void* kernel) { delete static_cast<CellKernel*>(kernel); };
  InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
    return guarded([&] { infer_shapes(as_operator(op).cell, context); });
  };
  GetMayInplace = cell == Cell::kMlstm ? may_reuse<Cell::kMlstm> : may_reuse<Cell::kSlstm>;
  ReleaseMayInplace = release_reuse;
}

}  // namespace xlstm::ort
