// The plugin library and nodes for it, as TensorRT would hold them.
#pragma once

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

// tensorrt_stand_in.cc
extern "C" nvinfer1::ILoggerFinder* stand_in_finder(nvinfer1::ILogger* of, int32_t version);

// What a test does with one library; each test program includes this once.
namespace {

using namespace nvinfer1;

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n  messages:\n%s\n", __FILE__, __LINE__, #condition, \
                   logger().text().c_str());                                                       \
      std::exit(1);                                                                                \
    }                                                                                              \
  } while (false)

class Recorder final : public ILogger {
 public:
  void log(Severity, AsciiChar const* message) noexcept override { messages_.push_back(message); }
  std::string text() const {
    std::string all;
    for (const std::string& message : messages_) all += message + "\n";
    return all;
  }
  // Whether the last message holds all the words; forgets the messages.
  bool said(std::initializer_list<const char*> words) {
    const std::string last = messages_.empty() ? "" : messages_.back();
    for (const char* word : words) {
      if (last.find(word) == std::string::npos) return false;
    }
    messages_.clear();
    return true;
  }

 private:
  std::vector<std::string> messages_;
};

Recorder& logger() {
  static Recorder recorder;
  return recorder;
}

void* library() {
  static void* const handle = dlopen(XLSTM_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (!handle) std::fprintf(stderr, "%s\n", dlerror());
  CHECK(handle);
  return handle;
}

template <typename Function>
Function* symbol(const char* name) {
  auto* const found = reinterpret_cast<Function*>(dlsym(library(), name));
  CHECK(found);
  return found;
}

// As a TensorRT of this major version loads the library; 0: one that does not say.
void log_through_tensorrt(int32_t major) {
  symbol<void(ILoggerFinder*)>("setLoggerFinder")(stand_in_finder(&logger(), major));
}

std::vector<IPluginCreatorV3One*> creators() {
  static const bool told [[maybe_unused]] = (log_through_tensorrt(NV_TENSORRT_MAJOR), true);
  int32_t count = 0;
  IPluginCreatorInterface* const* const all = symbol<IPluginCreatorInterface* const*(int32_t&)>("getCreators")(count);
  std::vector<IPluginCreatorV3One*> result;
  for (int32_t i = 0; i < count; ++i) result.push_back(static_cast<IPluginCreatorV3One*>(all[i]));
  return result;
}

IPluginCreatorV3One& creator(const std::string& name) {
  for (IPluginCreatorV3One* one : creators()) {
    if (name == one->getPluginName()) return *one;
  }
  CHECK(!"creator exists");
  std::abort();
}

using Plugin = std::unique_ptr<IPluginV3>;

Plugin create(const std::string& cell, const std::vector<PluginField>& fields,
              TensorRTPhase phase = TensorRTPhase::kBUILD) {
  const PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  return Plugin(creator(cell).createPlugin("node_7", &collection, phase));
}

IPluginV3OneCore& core(const Plugin& plugin) {
  return *static_cast<IPluginV3OneCore*>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
}
IPluginV3OneBuildV2& build(const Plugin& plugin) {
  return *static_cast<IPluginV3OneBuildV2*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
}
IPluginV3OneRuntime& runtime(const Plugin& plugin) {
  return *static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

float kScale = 0.125f, kOne = 1.0f, kCap = 15.0f, kEps = 1e-5f;
PluginField number(const char* name, const float* value) { return {name, value, PluginFieldType::kFLOAT32, 1}; }

std::vector<PluginField> mlstm_fields() {
  return {number("q_scale", &kScale), number("k_scale", &kOne), number("gate_soft_cap", &kCap), number("eps", &kEps)};
}

std::map<std::string, std::string> serialized(const Plugin& plugin) {
  const PluginFieldCollection* const fields = runtime(plugin).getFieldsToSerialize();
  std::map<std::string, std::string> result;
  for (int32_t i = 0; i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    CHECK(field.length == 1 && field.data);
    result[field.name] = field.type == PluginFieldType::kINT32
                             ? std::to_string(*static_cast<const int32_t*>(field.data))
                             : std::to_string(*static_cast<const float*>(field.data));
  }
  return result;
}

// The tensors of a node: type and extents of inputs, then outputs. -1: not known at build time.
struct Tensor {
  DataType type;
  std::vector<int64_t> shape;
};
struct Node {
  std::string cell;
  int32_t inputs;
  std::vector<Tensor> tensors;

  std::vector<PluginTensorDesc> descriptions() const {
    std::vector<PluginTensorDesc> result;
    for (const Tensor& tensor : tensors) {
      PluginTensorDesc description{};
      description.type = tensor.type;
      description.format = TensorFormat::kLINEAR;
      description.dims.nbDims = static_cast<int32_t>(tensor.shape.size());
      for (size_t axis = 0; axis < tensor.shape.size(); ++axis) description.dims.d[axis] = tensor.shape[axis];
      result.push_back(description);
    }
    return result;
  }
  std::vector<DynamicPluginTensorDesc> dynamic(int64_t largest_batch) const {
    std::vector<DynamicPluginTensorDesc> result;
    for (const PluginTensorDesc& description : descriptions()) {
      DynamicPluginTensorDesc one{};
      one.desc = description;
      one.min = one.opt = one.max = description.dims;
      for (int32_t axis = 0; axis < description.dims.nbDims; ++axis) {
        if (description.dims.d[axis] < 0) {
          one.min.d[axis] = one.opt.d[axis] = 1;
          one.max.d[axis] = largest_batch;
        }
      }
      result.push_back(one);
    }
    return result;
  }
  int32_t outputs() const { return static_cast<int32_t>(tensors.size()) - inputs; }
  int32_t shape_change(const Plugin& plugin) const {
    const std::vector<PluginTensorDesc> all = descriptions();
    return runtime(plugin).onShapeChange(all.data(), inputs, all.data() + inputs, outputs());
  }
  int32_t configure(const Plugin& plugin) const {
    const std::vector<DynamicPluginTensorDesc> all = dynamic(8);
    return build(plugin).configurePlugin(all.data(), inputs, all.data() + inputs, outputs());
  }
};

constexpr DataType kF = DataType::kFLOAT, kH = DataType::kHALF;

Node mlstm_node(int64_t B = 3, DataType T = kF, bool lengths = false) {
  const int64_t S = 1, H = 2, K = 8, V = 16;
  Node node{"MLSTMCell",
            8,
            {{T, {B, S, H, K}},
             {T, {B, S, H, K}},
             {T, {B, S, H, V}},
             {T, {B, S, H}},
             {T, {B, S, H}},
             {kF, {B, H, K, V}},
             {kF, {B, H, K}},
             {kF, {B, H}}}};
  if (lengths) node.tensors.push_back({DataType::kINT32, {B}}), ++node.inputs;
  for (const Tensor& out : std::vector<Tensor>{{T, {B, S, H, V}}, {kF, {B, H, K, V}}, {kF, {B, H, K}}, {kF, {B, H}}}) {
    node.tensors.push_back(out);
  }
  return node;
}

Node slstm_node(int64_t B = 3, DataType T = kF, DataType R = kF, bool lengths = false) {
  const int64_t S = 1, H = 2, D = 8;
  Node node{"SLSTMCell", 7, {{T, {B, S, 4, H, D}}, {R, {H, 4, D, D}}, {kF, {4, H, D}}}};
  for (int state = 0; state < 4; ++state) node.tensors.push_back({kF, {B, H, D}});
  if (lengths) node.tensors.push_back({DataType::kINT32, {B}}), ++node.inputs;
  node.tensors.push_back({T, {B, S, H, D}});
  for (int state = 0; state < 4; ++state) node.tensors.push_back({kF, {B, H, D}});
  return node;
}

// A dimension known by its address alone.
class Extent final : public IDimensionExpr {};
class Builder final : public IExprBuilder {};

}  // namespace
