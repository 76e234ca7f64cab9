// The plugin library through the interface that TensorRT uses: loaded with dlopen, driven through getCreators. Run with
// the name of one test, or of none for all.
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "nodes.h"

namespace {

void library_gives_a_creator_for_each_operator() {
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

void plugin_keeps_the_attributes_of_its_node() {
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

void wrong_attributes_are_refused_by_name() {
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

void plugin_is_the_same_after_an_engine_stored_it() {
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

void clone_outlives_what_it_was_made_from() {
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

void output_shapes_follow_from_those_of_the_inputs() {
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

void states_are_float_whatever_the_activations_are() {
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

void only_linear_tensors_of_the_right_types_are_supported() {
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

void shapes_that_do_not_fit_are_refused_when_an_engine_is_built() {
  for (Node node : {mlstm_node(-1), slstm_node(-1), mlstm_node(-1, kH, true)}) {
    CHECK(node.configure(create(node.cell, {})) == 0);
    node.tensors[1].shape.back() = 5;
    CHECK(node.configure(create(node.cell, {})) != 0);
    CHECK(logger().said({node.cell.c_str(), "shape"}));
  }
}

void shapes_and_types_that_do_not_fit_are_refused_when_an_engine_runs() {
  const auto refused = [](const Node& node, std::initializer_list<const char*> words) {
    CHECK(node.shape_change(create(node.cell, {})) != 0);
    CHECK(logger().said(words));
  };
  for (const bool lengths : {false, true}) {
    CHECK(mlstm_node(3, kH, lengths).shape_change(create("MLSTMCell", {})) == 0);
    // The memory in a type of its own, which is that of its next value too.
    Node node = mlstm_node(3, kF, lengths);
    node.tensors[5].type = kH;
    CHECK(node.shape_change(create("MLSTMCell", {})) != 0);
    CHECK(logger().said({"C_next", "float32", "before and after"}));
    node.tensors[node.inputs + 1].type = kH;
    CHECK(node.shape_change(create("MLSTMCell", {})) == 0);
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

void only_the_slstm_needs_a_workspace() {
  const Node slstm = slstm_node(-1), mlstm = mlstm_node(-1);
  const std::vector<DynamicPluginTensorDesc> s = slstm.dynamic(8), m = mlstm.dynamic(8);
  CHECK(build(create("SLSTMCell", {})).getWorkspaceSize(s.data(), slstm.inputs, s.data() + slstm.inputs, 5) ==
        2 * (8 * 2 * 8) * sizeof(uint64_t));  // two y, each value with its position
  CHECK(build(create("MLSTMCell", {})).getWorkspaceSize(m.data(), mlstm.inputs, m.data() + mlstm.inputs, 4) == 0);
}

void nothing_runs_before_its_shapes_were_accepted() {
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

void logger_of_another_tensorrt_is_left_alone() {
  // TensorRT 11 lays its logger out otherwise than 10. One that does not say what it is may be either.
  for (const int32_t major : {NV_TENSORRT_MAJOR, 0, NV_TENSORRT_MAJOR + 1, NV_TENSORRT_MAJOR}) {
    creators();
    log_through_tensorrt(major);
    CHECK(!creator("MLSTMCell").createPlugin("node_7", nullptr, TensorRTPhase::kBUILD));
    CHECK(logger().said({"null field collection"}) == (major == NV_TENSORRT_MAJOR));
  }
}

void nodes_share_their_timings_whatever_their_attributes() {
  const Plugin one = create("MLSTMCell", mlstm_fields()), other = create("MLSTMCell", {});
  const std::string id = build(one).getTimingCacheID();
  CHECK(id == build(other).getTimingCacheID());
  CHECK(id == symbol<const char*()>("xlstm_tensorrt_build_info")());
}

void registration_without_tensorrt_fails_with_a_message() {
  // No TensorRT in this process: a message and a code, no crash.
  creators();
  CHECK(symbol<int32_t(void*)>("xlstm_tensorrt_register")(nullptr) == -1);
  CHECK(logger().said({"no plugin registry of TensorRT"}));
  const std::string info = symbol<const char*()>("xlstm_tensorrt_build_info")();
  CHECK(info.find("tensorrt_headers=" + std::to_string(NV_TENSORRT_MAJOR)) != std::string::npos);
}

}  // namespace

int main(int count, char** arguments) {
#define XLSTM_TEST(name) std::make_pair(#name, name)
  const std::map<std::string, std::function<void()>> tests{
      XLSTM_TEST(library_gives_a_creator_for_each_operator),
      XLSTM_TEST(plugin_keeps_the_attributes_of_its_node),
      XLSTM_TEST(wrong_attributes_are_refused_by_name),
      XLSTM_TEST(plugin_is_the_same_after_an_engine_stored_it),
      XLSTM_TEST(clone_outlives_what_it_was_made_from),
      XLSTM_TEST(output_shapes_follow_from_those_of_the_inputs),
      XLSTM_TEST(states_are_float_whatever_the_activations_are),
      XLSTM_TEST(only_linear_tensors_of_the_right_types_are_supported),
      XLSTM_TEST(shapes_that_do_not_fit_are_refused_when_an_engine_is_built),
      XLSTM_TEST(shapes_and_types_that_do_not_fit_are_refused_when_an_engine_runs),
      XLSTM_TEST(only_the_slstm_needs_a_workspace),
      XLSTM_TEST(nothing_runs_before_its_shapes_were_accepted),
      XLSTM_TEST(logger_of_another_tensorrt_is_left_alone),
      XLSTM_TEST(nodes_share_their_timings_whatever_their_attributes),
      XLSTM_TEST(registration_without_tensorrt_fails_with_a_message),
  };
#undef XLSTM_TEST
  if (count > 1) {
    const auto found = tests.find(arguments[1]);
    if (found == tests.end()) return std::fprintf(stderr, "no test named %s\n", arguments[1]), 2;
    found->second();
    return 0;
  }
  for (const auto& test : tests) test.second();
  return 0;
}
