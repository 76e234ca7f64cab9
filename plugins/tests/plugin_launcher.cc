#include "plugin_launcher.h"

#include <NvInferRuntime.h>

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);

namespace {

using namespace nvinfer1;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "plugin_launcher: %s\n", what);
  std::exit(5);
}

struct Field {
  const char* name;
  float value;
};

// Built, then made again from what it serialises and cloned for a context: the plugin that an engine runs.
std::shared_ptr<IPluginV3> make_plugin(const char* cell, const std::vector<Field>& values) {
  std::vector<PluginField> fields;
  for (const Field& field : values) fields.emplace_back(field.name, &field.value, PluginFieldType::kFLOAT32, 1);
  const PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  int32_t count = 0;
  IPluginCreatorInterface* const* const creators = getCreators(count);
  for (int32_t i = 0; i < count; ++i) {
    auto& creator = static_cast<IPluginCreatorV3One&>(*creators[i]);
    if (std::string(creator.getPluginName()) != cell) continue;
    const auto runtime = [](IPluginV3& plugin) {
      return static_cast<IPluginV3OneRuntime*>(plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    };
    const std::unique_ptr<IPluginV3> built(creator.createPlugin("node", &collection, TensorRTPhase::kBUILD));
    require(built != nullptr, "createPlugin");
    const std::unique_ptr<IPluginV3> loaded(
        creator.createPlugin("node", runtime(*built)->getFieldsToSerialize(), TensorRTPhase::kRUNTIME));
    require(loaded != nullptr, "createPlugin from serialised fields");
    return std::shared_ptr<IPluginV3>(runtime(*loaded)->attachToContext(nullptr));
  }
  require(false, "no creator of that name");
  return nullptr;
}

DataType tensorrt_type(xlstm::DataType type) {
  return type == xlstm::DataType::kFloat32   ? DataType::kFLOAT
         : type == xlstm::DataType::kFloat16 ? DataType::kHALF
                                             : DataType::kBF16;
}

class Call {
 public:
  explicit Call(std::shared_ptr<IPluginV3> plugin) : plugin_(std::move(plugin)) {}

  void input(const void* address, DataType type, std::initializer_list<int64_t> shape) {
    inputs_.push_back(address);
    input_descriptions_.push_back(describe(type, shape));
  }
  void output(void* address, DataType type, std::initializer_list<int64_t> shape) {
    outputs_.push_back(address);
    output_descriptions_.push_back(describe(type, shape));
  }
  cudaError_t operator()(void* workspace, cudaStream_t stream) const {
    auto* const runtime =
        static_cast<IPluginV3OneRuntime*>(plugin_->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    const int32_t refused = runtime->onShapeChange(input_descriptions_.data(), static_cast<int32_t>(inputs_.size()),
                                                   output_descriptions_.data(), static_cast<int32_t>(outputs_.size()));
    const int32_t failed = refused ? refused
                                   : runtime->enqueue(input_descriptions_.data(), output_descriptions_.data(),
                                                      inputs_.data(), outputs_.data(), workspace, stream);
    return failed ? cudaErrorInvalidValue : cudaSuccess;
  }

 private:
  static PluginTensorDesc describe(DataType type, std::initializer_list<int64_t> shape) {
    PluginTensorDesc description{};
    description.type = type;
    description.format = TensorFormat::kLINEAR;
    for (const int64_t extent : shape) description.dims.d[description.dims.nbDims++] = extent;
    return description;
  }

  std::shared_ptr<IPluginV3> plugin_;
  std::vector<const void*> inputs_;
  std::vector<void*> outputs_;
  std::vector<PluginTensorDesc> input_descriptions_, output_descriptions_;
};

}  // namespace

std::function<cudaError_t(cudaStream_t)> through_plugin(const xlstm::MlstmArgs& a) {
  const int64_t B = a.batch, S = a.sequence, H = a.heads, K = a.dim_qk, V = a.dim_v;
  const DataType T = tensorrt_type(a.type), M = tensorrt_type(a.memory_type), F = DataType::kFLOAT;
  Call call(make_plugin(
      "MLSTMCell",
      {{"eps", a.eps}, {"gate_soft_cap", a.gate_soft_cap}, {"k_scale", a.k_scale}, {"q_scale", a.q_scale}}));
  call.input(a.q, T, {B, S, H, K});
  call.input(a.k, T, {B, S, H, K});
  call.input(a.v, T, {B, S, H, V});
  call.input(a.i, T, {B, S, H});
  call.input(a.f, T, {B, S, H});
  call.input(a.C_in, M, {B, H, K, V});
  call.input(a.n_in, F, {B, H, K});
  call.input(a.m_in, F, {B, H});
  if (a.lengths) call.input(a.lengths, DataType::kINT32, {B});
  call.output(a.h, T, {B, S, H, V});
  call.output(a.C_out, M, {B, H, K, V});
  call.output(a.n_out, F, {B, H, K});
  call.output(a.m_out, F, {B, H});
  return [call](cudaStream_t stream) { return call(nullptr, stream); };
}

std::function<cudaError_t(cudaStream_t)> through_plugin(const xlstm::SlstmArgs& a, void* workspace) {
  const int64_t B = a.batch, S = a.sequence, H = a.heads, D = a.dim;
  const DataType T = tensorrt_type(a.type), F = DataType::kFLOAT;
  Call call(make_plugin("SLSTMCell", {{"forget_clamp", a.forget_clamp}}));
  call.input(a.x, T, {B, S, 4, H, D});
  call.input(a.R, tensorrt_type(a.recurrent_type), {H, 4, D, D});
  call.input(a.b, F, {4, H, D});
  for (const float* state : {a.y_in, a.c_in, a.n_in, a.m_in}) call.input(state, F, {B, H, D});
  if (a.lengths) call.input(a.lengths, DataType::kINT32, {B});
  call.output(a.hidden, T, {B, S, H, D});
  for (float* state : {a.y_out, a.c_out, a.n_out, a.m_out}) call.output(state, F, {B, H, D});
  return [call, workspace](cudaStream_t stream) { return call(workspace, stream); };
}
