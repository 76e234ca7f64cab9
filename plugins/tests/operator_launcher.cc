#include "operator_launcher.h"

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "onnxruntime/cell_operator.h"

// What ONNX Runtime keeps behind its handles, as far as the operators ask for it.
struct OrtStatus {
  OrtErrorCode code;
  std::string message;
};

struct OrtTensorTypeAndShapeInfo {
  std::vector<int64_t> shape;
};

struct OrtValue {
  void* data;
  std::vector<int64_t> shape;
};

struct OrtKernelInfo {
  std::map<std::string, float> attributes;
  size_t inputs = 0;
};

struct OrtKernelContext {
  std::vector<OrtValue> inputs, outputs;
  cudaStream_t stream = nullptr;
};

namespace {

using Shape = std::vector<int64_t>;

void require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "operator_launcher: %s\n", what.c_str());
  std::exit(5);
}

// No allocator among it: ONNX Runtime's knows no stream, so memory that a kernel still uses would go to a run on
// another.
OrtApi make_api() {
  OrtApi api{};
  api.CreateStatus = [](OrtErrorCode code, const char* message) noexcept { return new OrtStatus{code, message}; };
  api.GetErrorCode = [](const OrtStatus* status) noexcept { return status->code; };
  api.GetErrorMessage = [](const OrtStatus* status) noexcept { return status->message.c_str(); };
  api.ReleaseStatus = [](OrtStatus* status) noexcept { delete status; };
  api.KernelInfo_GetNodeName = [](const OrtKernelInfo*, char* name, size_t* size) noexcept -> OrtStatusPtr {
    static constexpr char kName[] = "node";
    if (name != nullptr) std::copy_n(kName, sizeof kName, name);
    *size = sizeof kName;
    return nullptr;
  };
  api.KernelInfoGetAttribute_float = [](const OrtKernelInfo* info, const char* name,
                                        float* value) noexcept -> OrtStatusPtr {
    const auto found = info->attributes.find(name);
    if (found == info->attributes.end()) return new OrtStatus{ORT_FAIL, "no such attribute"};
    *value = found->second;
    return nullptr;
  };
  api.KernelInfo_GetInputCount = [](const OrtKernelInfo* info, size_t* count) noexcept -> OrtStatusPtr {
    *count = info->inputs;
    return nullptr;
  };
  api.KernelContext_GetInput = [](const OrtKernelContext* context, size_t index,
                                  const OrtValue** value) noexcept -> OrtStatusPtr {
    *value = &context->inputs[index];
    return nullptr;
  };
  api.KernelContext_GetOutput = [](OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank,
                                   OrtValue** value) noexcept -> OrtStatusPtr {
    *value = &context->outputs[index];
    require(Shape(shape, shape + rank) == (*value)->shape, "an output's shape is not the contract's");
    return nullptr;
  };
  api.KernelContext_GetGPUComputeStream = [](const OrtKernelContext* context, void** stream) noexcept -> OrtStatusPtr {
    *stream = context->stream;
    return nullptr;
  };
  api.GetTensorTypeAndShape = [](const OrtValue* value, OrtTensorTypeAndShapeInfo** info) noexcept -> OrtStatusPtr {
    *info = new OrtTensorTypeAndShapeInfo{value->shape};
    return nullptr;
  };
  api.GetDimensionsCount = [](const OrtTensorTypeAndShapeInfo* info, size_t* rank) noexcept -> OrtStatusPtr {
    *rank = info->shape.size();
    return nullptr;
  };
  api.GetDimensions = [](const OrtTensorTypeAndShapeInfo* info, int64_t* shape, size_t rank) noexcept -> OrtStatusPtr {
    std::copy_n(info->shape.begin(), rank, shape);
    return nullptr;
  };
  api.ReleaseTensorTypeAndShapeInfo = [](OrtTensorTypeAndShapeInfo* info) noexcept { delete info; };
  api.GetTensorMutableData = [](OrtValue* value, void** data) noexcept -> OrtStatusPtr {
    *data = value->data;
    return nullptr;
  };
  return api;
}

ONNXTensorElementDataType element_type(xlstm::DataType type) {
  return type == xlstm::DataType::kFloat32   ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
         : type == xlstm::DataType::kFloat16 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                             : ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
}

// The kernel of one node; computes on what `context` holds.
std::function<cudaError_t(cudaStream_t)> make_kernel(const xlstm::ort::Cell& cell, xlstm::ort::Types types,
                                                     OrtKernelInfo info, OrtKernelContext context) {
  static const OrtApi api = make_api();
  Ort::InitApi(&api);
  const auto op = std::make_shared<xlstm::ort::CellOperator>(cell, types, xlstm::ort::kCuda, xlstm::ort::kOldestApi);
  info.inputs = context.inputs.size();
  void* made = nullptr;
  require(op->CreateKernelV2(op.get(), &api, &info, &made) == nullptr, "CreateKernelV2");
  const std::shared_ptr<void> kernel(made, op->KernelDestroy);
  return [op, kernel, context](cudaStream_t stream) mutable {
    context.stream = stream;
    const std::unique_ptr<OrtStatus> status(op->KernelComputeV2(kernel.get(), &context));
    if (status) std::fprintf(stderr, "operator_launcher: %s\n", status->message.c_str());
    return status ? cudaErrorInvalidValue : cudaSuccess;
  };
}

OrtValue value(const void* data, Shape shape) { return {const_cast<void*>(data), std::move(shape)}; }

}  // namespace

std::function<cudaError_t(cudaStream_t)> through_operator(const xlstm::MlstmArgs& a) {
  const int64_t B = a.batch, S = a.sequence, H = a.heads, K = a.dim_qk, V = a.dim_v;
  const ONNXTensorElementDataType type = element_type(a.type);
  OrtKernelContext context;
  context.inputs = {value(a.q, {B, S, H, K}), value(a.k, {B, S, H, K}), value(a.v, {B, S, H, V}),
                    value(a.i, {B, S, H}),    value(a.f, {B, S, H}),    value(a.C_in, {B, H, K, V}),
                    value(a.n_in, {B, H, K}), value(a.m_in, {B, H})};
  if (a.lengths) context.inputs.push_back(value(a.lengths, {B}));
  context.outputs = {value(a.h, {B, S, H, V}), value(a.C_out, {B, H, K, V}), value(a.n_out, {B, H, K}),
                     value(a.m_out, {B, H})};
  const OrtKernelInfo info{
      {{"eps", a.eps}, {"gate_soft_cap", a.gate_soft_cap}, {"k_scale", a.k_scale}, {"q_scale", a.q_scale}}};
  return make_kernel(xlstm::ort::kMlstmCell, {type, type, element_type(a.memory_type)}, info, context);
}

std::function<cudaError_t(cudaStream_t)> through_operator(const xlstm::SlstmArgs& a) {
  const int64_t B = a.batch, S = a.sequence, H = a.heads, D = a.dim;
  OrtKernelContext context;
  context.inputs = {value(a.x, {B, S, 4, H, D}), value(a.R, {H, 4, D, D}), value(a.b, {4, H, D})};
  for (const float* state : {a.y_in, a.c_in, a.n_in, a.m_in}) context.inputs.push_back(value(state, {B, H, D}));
  if (a.lengths) context.inputs.push_back(value(a.lengths, {B}));
  context.outputs = {value(a.hidden, {B, S, H, D})};
  for (float* state : {a.y_out, a.c_out, a.n_out, a.m_out}) context.outputs.push_back(value(state, {B, H, D}));
  const OrtKernelInfo info{{{"forget_clamp", a.forget_clamp}}};
  return make_kernel(xlstm::ort::kSlstmCell,
                     {element_type(a.type), element_type(a.recurrent_type), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT}, info,
                     context);
}
