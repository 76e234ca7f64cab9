// The plugin library through the interface that TensorRT uses: loaded with dlopen, driven through getCreators. Run with
// the name of one test, or of none for all.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

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

class Finder final : public ILoggerFinder {
 public:
  ILogger* findLogger() override { return &logger(); }
};

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

std::vector<IPluginCreatorV3One*> creators() {
  static Finder finder;
  symbol<void(ILoggerFinder*)>("setLoggerFinder")(&finder);
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

void test_creators() {
  std::set<std::string> names;
  for (IPluginCreatorV3One* one : creators()) {
    names.insert(one->getPluginName());
    CHECK(std::string(one->getPluginVersion()) == "1" && std::string(one->getPluginNamespace()) == "ai.xlstm");
    CHECK(std::string(one->getInterfaceInfo().kind) == "PLUGIN CREATOR_V3ONE");
  }
  CHECK((names == std::set<std::string>{"MLSTMCell", "SLSTMCell"}));
  std::set<std::string> fields;
  const PluginFieldCollection* const collection = creator("MLSTMCell").getFieldNames();
  for (int32_t i = 0; i < collection->nbFields; ++i) fields.insert(collection->fields[i].name);
  CHECK((fields == std::set<std::string>{"q_scale", "k_scale", "gate_soft_cap", "eps"}));
  CHECK(creator("SLSTMCell").getFieldNames()->nbFields == 1);
}

void test_build_fields() {
  CHECK((serialized(create("MLSTMCell", mlstm_fields())) ==
         std::map<std::string, std::string>{{"format_version", "1"},
                                            {"q_scale", "0.125000"},
                                            {"k_scale", "1.000000"},
                                            {"gate_soft_cap", "15.000000"},
                                            {"eps", "0.000010"}}));
  const Plugin plain = create("MLSTMCell", {});  // the defaults of the operator's schema
  CHECK(plain && serialized(plain)["q_scale"] == "1.000000" && serialized(plain)["eps"] == "0.000001");
  const char version[] = "1";
  const Plugin node =
      create("SLSTMCell", {number("forget_clamp", &kCap), {"plugin_version", version, PluginFieldType::kCHAR, 2}});
  CHECK(node && serialized(node)["forget_clamp"] == "15.000000");
  CHECK(std::string(core(node).getPluginName()) == "SLSTMCell");
  CHECK(build(node).getNbOutputs() == 5 && build(plain).getNbOutputs() == 4);
  CHECK(build(node).getAliasedInput(1) == -1);
}

void test_wrong_fields() {
  const float nan = std::nanf(""), negative = -1.0f;
  const double wide = 1.0;
  const float two[] = {1.0f, 2.0f};
  const auto refused = [&](const PluginField& field, std::initializer_list<const char*> words) {
    CHECK(!create("MLSTMCell", {field}));
    CHECK(logger().said(words));
  };
  refused(number("eps", &nan), {"MLSTMCell", "node_7", "eps", "not finite"});
  refused(number("eps", &negative), {"eps", "-1", "below 0"});
  refused(number("gate_soft_cap", &negative), {"gate_soft_cap", "below 0"});
  refused({"q_scale", &wide, PluginFieldType::kFLOAT64, 1}, {"q_scale", "float32"});
  refused({"q_scale", two, PluginFieldType::kFLOAT32, 2}, {"q_scale", "one value"});
  refused({"q_scale", nullptr, PluginFieldType::kFLOAT32, 1}, {"q_scale", "one value"});
  refused(number("qscale", &kOne), {"qscale", "unknown"});
  refused({nullptr, &kOne, PluginFieldType::kFLOAT32, 1}, {"no name"});
  CHECK(create("MLSTMCell", {number("k_scale", &negative)}));  // scales may have any sign
  CHECK(!creator("MLSTMCell").createPlugin("node_7", nullptr, TensorRTPhase::kBUILD));
  CHECK(logger().said({"null field collection"}));
}

void test_serialization() {
  for (const char* cell : {"MLSTMCell", "SLSTMCell"}) {
    const Plugin first =
        create(cell, std::string(cell) == "MLSTMCell" ? mlstm_fields()
                                                      : std::vector<PluginField>{number("forget_clamp", &kCap)});
    const PluginFieldCollection* const stored = runtime(first).getFieldsToSerialize();
    const Plugin second(creator(cell).createPlugin("node_7", stored, TensorRTPhase::kRUNTIME));
    CHECK(second && serialized(second) == serialized(first));

    const std::vector<PluginField> fields(stored->fields, stored->fields + stored->nbFields);
    for (size_t left_out = 0; left_out < fields.size(); ++left_out) {
      std::vector<PluginField> some = fields;
      some.erase(some.begin() + static_cast<std::ptrdiff_t>(left_out));
      CHECK(!create(cell, some, TensorRTPhase::kRUNTIME));
      CHECK(logger().said({"rebuild"}));
    }
    const int32_t later = 2;
    std::vector<PluginField> other = fields;
    other[0].data = &later;
    CHECK(!create(cell, other, TensorRTPhase::kRUNTIME));
    CHECK(logger().said({"format version 2", "rebuild the engine"}));
  }
}

void test_clone() {
  Plugin first = create("MLSTMCell", mlstm_fields());
  const Node node = mlstm_node();
  CHECK(node.shape_change(first) == 0);
  const auto before = serialized(first);
  const Plugin second(first->clone());
  const Plugin context(runtime(second).attachToContext(nullptr));
  first.reset();  // a clone must not point into what it was made from
  CHECK(serialized(second) == before && serialized(context) == before);
  CHECK(std::string(core(context).getPluginNamespace()) == "ai.xlstm");
}

// A dimension known by its address alone.
class Extent final : public IDimensionExpr {};
class Builder final : public IExprBuilder {};

void test_output_shapes() {
  for (const bool lengths : {false, true}) {
    for (const Node& node : {mlstm_node(3, kF, lengths), slstm_node(3, kF, kF, lengths)}) {
      const Plugin plugin = create(node.cell, {});
      // One expression for each extent, so that equal extents share it; B, S, H and the widths differ.
      std::map<int64_t, Extent> expressions;
      std::vector<DimsExprs> inputs(static_cast<size_t>(node.inputs)), outputs(static_cast<size_t>(node.outputs()));
      for (int32_t i = 0; i < node.inputs; ++i) {
        inputs[i].nbDims = static_cast<int32_t>(node.tensors[i].shape.size());
        for (int32_t axis = 0; axis < inputs[i].nbDims; ++axis) {
          inputs[i].d[axis] = &expressions[node.tensors[i].shape[axis]];
        }
      }
      Builder builder;
      CHECK(build(plugin).getOutputShapes(inputs.data(), node.inputs, nullptr, 0, outputs.data(), node.outputs(),
                                          builder) == 0);
      for (int32_t i = 0; i < node.outputs(); ++i) {
        const std::vector<int64_t>& shape = node.tensors[node.inputs + i].shape;
        CHECK(outputs[i].nbDims == static_cast<int32_t>(shape.size()));
        for (size_t axis = 0; axis < shape.size(); ++axis) CHECK(outputs[i].d[axis] == &expressions[shape[axis]]);
      }
      inputs[0].nbDims = 2;
      CHECK(build(plugin).getOutputShapes(inputs.data(), node.inputs, nullptr, 0, outputs.data(), node.outputs(),
                                          builder) != 0);
      CHECK(logger().said({node.cell.c_str(), "2 axes"}));
      CHECK(build(plugin).getOutputShapes(inputs.data(), 3, nullptr, 0, outputs.data(), node.outputs(), builder) != 0);
      CHECK(logger().said({"3 inputs"}));
    }
  }
}

void test_output_types() {
  for (const DataType type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16}) {
    const Node node = mlstm_node(1, type);
    const Plugin plugin = create(node.cell, {});
    std::vector<DataType> in, out(4);
    for (int32_t i = 0; i < node.inputs; ++i) in.push_back(node.tensors[i].type);
    CHECK(build(plugin).getOutputDataTypes(out.data(), 4, in.data(), node.inputs) == 0);
    CHECK(out[0] == type && out[1] == kF && out[2] == kF && out[3] == kF);
    in[5] = DataType::kINT32;
    CHECK(build(plugin).getOutputDataTypes(out.data(), 4, in.data(), node.inputs) != 0);
    CHECK(logger().said({"tensor C", "int32", "float32"}));
  }
}

void test_formats() {
  const auto supported = [](const Node& node) {
    const Plugin plugin = create(node.cell, {});
    const std::vector<DynamicPluginTensorDesc> all = node.dynamic(8);
    for (int32_t position = 0; position < static_cast<int32_t>(all.size()); ++position) {
      if (!build(plugin).supportsFormatCombination(position, all.data(), node.inputs, node.outputs())) return false;
    }
    return true;
  };
  for (const DataType type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16}) {
    for (const bool lengths : {false, true}) {
      CHECK(supported(mlstm_node(-1, type, lengths)));
      CHECK(supported(slstm_node(-1, type, kF, lengths)));
      CHECK(supported(slstm_node(-1, type, type, lengths)));
    }
  }
  CHECK(!supported(slstm_node(-1, kH, DataType::kBF16)));
  CHECK(!supported(mlstm_node(-1, DataType::kINT8)));
  for (size_t position = 0; position < mlstm_node().tensors.size(); ++position) {
    Node node = mlstm_node(-1, kF, true);
    node.tensors[position].type =
        position < 5 ? kH : DataType::kINT64;  // one activation unlike the others; a wrong state
    if (position > 0) CHECK(!supported(node));
  }
  const Node node = mlstm_node(-1);
  std::vector<DynamicPluginTensorDesc> all = node.dynamic(8);
  all[5].desc.format = TensorFormat::kCHW32;
  const Plugin plugin = create(node.cell, {});
  CHECK(!build(plugin).supportsFormatCombination(5, all.data(), node.inputs, node.outputs()));
  CHECK(!build(plugin).supportsFormatCombination(99, all.data(), node.inputs, node.outputs()));
}

void test_configure() {
  for (Node node : {mlstm_node(-1), slstm_node(-1), mlstm_node(-1, kH, true)}) {
    CHECK(node.configure(create(node.cell, {})) == 0);
    node.tensors[1].shape.back() = 5;
    CHECK(node.configure(create(node.cell, {})) != 0);
    CHECK(logger().said({node.cell.c_str(), "shape"}));
  }
}

void test_shape_change() {
  const auto refused = [](const Node& node, std::initializer_list<const char*> words) {
    CHECK(node.shape_change(create(node.cell, {})) != 0);
    CHECK(logger().said(words));
  };
  for (const bool lengths : {false, true}) {
    CHECK(mlstm_node(3, kH, lengths).shape_change(create("MLSTMCell", {})) == 0);
    CHECK(slstm_node(3, kH, kH, lengths).shape_change(create("SLSTMCell", {})) == 0);
  }
  // Every tensor in turn: one axis too long, one axis less, another type.
  for (const Node& right : {mlstm_node(3, kF, true), slstm_node(3, kF, kF, true)}) {
    for (size_t position = 0; position < right.tensors.size(); ++position) {
      Node node = right;
      node.tensors[position].shape[0] += 1;
      refused(node, {"tensor", "has shape"});
      node = right;
      node.tensors[position].shape.pop_back();
      refused(node, {"tensor", "wrong number of axes"});
      node = right;
      node.tensors[position].type = DataType::kINT64;
      refused(node, {"tensor", "expected"});
    }
  }
  Node node = slstm_node();
  node.tensors[0].shape[2] = 3;
  refused(node, {"tensor x", "axis 2 must be 4"});
  refused(mlstm_node(0), {"tensor q", "empty"});
  refused(mlstm_node(-1), {"tensor q", "must be known"});
  node = mlstm_node();
  node.tensors.pop_back();
  refused(node, {"3 outputs"});
}

void test_workspace() {
  const Node slstm = slstm_node(-1), mlstm = mlstm_node(-1);
  const std::vector<DynamicPluginTensorDesc> s = slstm.dynamic(8), m = mlstm.dynamic(8);
  CHECK(build(create("SLSTMCell", {})).getWorkspaceSize(s.data(), slstm.inputs, s.data() + slstm.inputs, 5) ==
        (2 * 8 * 2 * 8 + 2) * sizeof(float));  // two y and a counter for each head
  CHECK(build(create("MLSTMCell", {})).getWorkspaceSize(m.data(), mlstm.inputs, m.data() + mlstm.inputs, 4) == 0);
}

void test_enqueue_errors() {
  const Node node = mlstm_node();
  const Plugin plugin = create(node.cell, {});
  void* none[9] = {};
  CHECK(runtime(plugin).enqueue(nullptr, nullptr, none, none, nullptr, nullptr) != 0);
  CHECK(logger().said({"without an accepted onShapeChange"}));
  CHECK(node.shape_change(plugin) == 0);
  CHECK(runtime(plugin).enqueue(nullptr, nullptr, none, none, nullptr, nullptr) != 0);  // null addresses, or no GPU
  CHECK(logger().said({"MLSTMCell", "kernel launch"}));
  Node wrong = node;
  wrong.tensors[0].shape[1] = 2;
  CHECK(wrong.shape_change(plugin) != 0);
  CHECK(runtime(plugin).enqueue(nullptr, nullptr, none, none, nullptr, nullptr) != 0);
  CHECK(logger().said({"without an accepted onShapeChange"}));  // a refused shape leaves nothing to run
}

void test_registration() {
  // No TensorRT in this process: a message and a code, no crash.
  creators();
  CHECK(symbol<int32_t(void*)>("xlstm_tensorrt_register")(nullptr) == -1);
  CHECK(logger().said({"no plugin registry"}));
  const std::string info = symbol<const char*()>("xlstm_tensorrt_build_info")();
  CHECK(info.find("tensorrt_headers=" + std::to_string(NV_TENSORRT_MAJOR)) != std::string::npos);
}

}  // namespace

int main(int count, char** arguments) {
  const std::map<std::string, std::function<void()>> tests{{"creators", test_creators},
                                                           {"build_fields", test_build_fields},
                                                           {"wrong_fields", test_wrong_fields},
                                                           {"serialization", test_serialization},
                                                           {"clone", test_clone},
                                                           {"output_shapes", test_output_shapes},
                                                           {"output_types", test_output_types},
                                                           {"formats", test_formats},
                                                           {"configure", test_configure},
                                                           {"shape_change", test_shape_change},
                                                           {"workspace", test_workspace},
                                                           {"enqueue_errors", test_enqueue_errors},
                                                           {"registration", test_registration}};
  if (count > 1) {
    const auto found = tests.find(arguments[1]);
    if (found == tests.end()) return std::fprintf(stderr, "no test named %s\n", arguments[1]), 2;
    found->second();
    return 0;
  }
  for (const auto& test : tests) test.second();
  return 0;
}
