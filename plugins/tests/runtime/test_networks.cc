// Networks of any inputs and outputs, fed by name.   test_networks behaviour | refusals | c_api
// XLSTM_TEST_NETWORKS: the folder of the bundles that tests/support/hand_written_bundles.py writes.
#include <xlstm/xlstm.h>

#include <algorithm>
#include <cstring>

#include "check.h"

using xlstm::ErrorCode;
using Floats = std::vector<float>;
using Int64s = std::vector<std::int64_t>;
using Int32s = std::vector<std::int32_t>;

namespace {

constexpr std::size_t kBatch = 2;

std::string network(const char* name) {
  const char* folder = std::getenv("XLSTM_TEST_NETWORKS");
  if (!folder || !std::getenv("XLSTM_ONNXRUNTIME")) {
    std::puts(
        "skipped: set XLSTM_TEST_NETWORKS to the folder of support/hand_written_bundles.py, and XLSTM_ONNXRUNTIME");
    std::exit(77);
  }
  return folder + std::string("/") + name;
}

xlstm::Model load(const char* name) { return xlstm::Model::load(network(name), test_options()); }

Floats copy(const xlstm::Output& output) { return {output.data, output.data + output.size()}; }

// Of `sequence`, for each row: x (positions, 3), side (2, positions), a speaker and an index.
struct Fed {
  Floats x, side;
  Int64s speaker{1, 6};
  Int32s index{0, 4};

  Fed(std::size_t positions, std::uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < kBatch * positions * 3; ++i) x.push_back(normal(random));
    for (std::size_t i = 0; i < kBatch * positions * 2; ++i) side.push_back(normal(random));
  }

  xlstm::Outputs run(xlstm::Session& session, xlstm::Span<const std::int32_t> lengths = {}) const {
    return session.run({{"index", index}, {"x", x}, {"side", side}, {"speaker", speaker}}, lengths);
  }
};

void behaviour() {
  const auto model = load("sequence");
  const xlstm::ModelInfo& info = model.info();
  CHECK(info.family == "network" && info.mode == "both" && info.vocab_size == 0 && info.input_width == 0);
  CHECK(info.inputs.size() == 4 && info.inputs[1].name == "side" && info.inputs[1].dtype == "float32");
  CHECK((info.inputs[1].shape == Int64s{-1, 2, -1}) && info.inputs[1].time_axis == 2);
  CHECK(info.inputs[3].dtype == "int32" && info.inputs[3].time_axis == -1);
  CHECK(info.outputs.size() == 3 && (info.outputs[0].shape == Int64s{-1, -1, 4}) && info.outputs[0].time_axis == 1);
  CHECK(info.state_bytes == sizeof(float) * (2 * 4 * 4 + 2));

  // Outputs have shapes and names; those of one position are those of many.
  const Fed many(5, 1);
  auto session = model.session(kBatch);
  const auto outputs = many.run(session);
  CHECK(outputs.size() == 3 && outputs[1].name == "energy" && outputs["energy"].data == outputs[1].data);
  CHECK((Int64s(outputs["out"].shape.begin(), outputs["out"].shape.end()) == Int64s{kBatch, 5, 4}));
  CHECK(outputs["out"].size() == kBatch * 5 * 4 && outputs["picked"].size() == kBatch * 2);

  // Lengths: an idle row keeps its states, and a padded one is as far as its length says.
  auto padded = session.fork(), alone = session.fork();
  Fed one(1, 2);
  Fed two(2, 2);
  std::copy_n(one.x.begin() + 3, 3, two.x.begin() + 6);  // row 1's first position
  two.side[4] = one.side[2], two.side[6] = one.side[3];
  const auto saved = copy(one.run(alone)["energy"]);
  const auto found = copy(two.run(padded, Int32s{0, 1})["energy"]);
  CHECK(Floats(found.begin() + 4, found.end()) == Floats(saved.begin() + 4, saved.end()));
  auto kept = session.fork();
  CHECK(copy(one.run(kept, Int32s{0, 1})["energy"]) == copy(two.run(session, Int32s{0, 1})["energy"]));
  CHECK(kept.save() == session.save() && kept.save() != alone.save());
  one.run(kept);  // and none are idle any more
  CHECK(kept.save() != session.save());

  // Outputs may be what is fed: here to a larger pass, for which all buffers grow.
  auto fresh = model.session(kBatch), twin = model.session(kBatch);
  const Fed small(30, 3), large(40, 4);
  const auto run_large = [&](xlstm::Session& fed, xlstm::Span<const float> x) {
    return copy(fed.run({{"x", x}, {"side", large.side}, {"speaker", large.speaker}, {"index", large.index}})[0]);
  };
  const xlstm::Output out = small.run(fresh)["out"];
  CHECK(out.size() == large.x.size());
  const Floats copied = copy(small.run(twin)["out"]);
  CHECK(run_large(fresh, {out.data, out.size()}) == run_large(twin, copied));

  // A window without any open dimension.
  auto fixed = load("fixed").session(kBatch);
  const Floats values(kBatch * 6, 0.25f);
  const auto pair = copy(fixed.run({{"values", values}})["two"]);
  CHECK(pair.size() == kBatch * 2 && copy(fixed.run({{"values", values}})[0]) == pair);

  // A window keeps nothing, and an output's size may be known after the run only.
  auto window = load("window").session(kBatch);
  const Floats signal(kBatch * 3 * 9, 1.0f), longer(kBatch * 3 * 21, 1.0f);
  const auto first = copy(window.run({{"signal", signal}})["map"]);
  CHECK((window.run({{"signal", longer}})["map"].shape[2] == 10 && first.size() == kBatch * 4 * 4));
  CHECK(copy(window.run({{"signal", signal}})["map"]) == first);
  window.reset(), window.reset(1), window.load(window.fork().save());
}

void refusals() {
  const auto refused = [](const std::string& part, auto&& body) { check_error(ErrorCode::argument, part, body); };
  const auto model = load("sequence");
  auto session = model.session(kBatch);
  const Fed good(4, 1), other(3, 1);
  good.run(session);
  const auto before = session.save();
  const std::string all =
      "The model takes x: float32 (2, positions, 3), side: float32 (2, 2, positions), speaker: int64 (2), index: "
      "int32 (2).";
  refused("Input side is missing. " + all, [&] { session.run({{"x", good.x}}); });
  refused("There is no input y. " + all, [&] { session.run({{"y", good.x}}); });
  refused("Input x is given twice.", [&] { session.run({{"x", good.x}, {"x", good.x}}); });
  const auto run = [&](const xlstm::Input& x, const xlstm::Input& speaker, const Floats& side, const Int32s& lengths) {
    return [&, lengths] { session.run({x, speaker, {"side", side}, {"index", good.index}}, lengths); };
  };
  const xlstm::Input x("x", good.x), speaker("speaker", good.speaker);
  refused("Input x is int32, expected float32 (2, positions, 3).", run({"x", good.index}, speaker, good.side, {}));
  refused("Input x has 23 values, expected float32 (2, positions, 3): 6 for each position.",
          run({"x", Floats(23)}, speaker, good.side, {}));
  refused("Input x has 0 values", run({"x", Floats()}, speaker, good.side, {}));
  refused("Input speaker has 3 values, expected int64 (2): 2 values.", run(x, {"speaker", Int64s(3)}, good.side, {}));
  refused("Input side has 3 positions, but input x has 4. Give all inputs the same number.",
          run(x, speaker, other.side, {}));
  refused("There are 3 lengths for a batch of 2.", run(x, speaker, good.side, {1, 2, 3}));
  refused("The length of row 1 is 5; give 0 to 4.", run(x, speaker, good.side, {1, 5}));
  refused("The length of row 0 is -1; give 0 to 4.", run(x, speaker, good.side, {-1, 2}));
  refused("This model is a network, which step_vectors does not feed. Feed it with run.",
          [&] { session.step_vectors(good.x); });
  refused("which prefill does not feed", [&] { session.prefill(good.speaker); });
  refused("There is no output y. The model gives out, energy, picked.", [&] { good.run(session)["y"]; });
  session.load(before);
  check_error(ErrorCode::runtime, "ONNX Runtime failed in a pass over 4 positions",
              [&] { session.run({x, speaker, {"side", good.side}, {"index", Int32s{0, 5}}}); });
  CHECK(session.save() == before);  // states in two sets

  auto step = load("step").session(kBatch);
  const Floats observation(kBatch * 2);
  step.run({{"observation", observation}}, Int32s{1, 1});
  refused("The length of row 1 is 0 of 1 position, but a bundle of mode step takes no padding.",
          [&] { step.run({{"observation", observation}}, Int32s{1, 0}); });
  refused("Input observation has 8 values, expected float32 (2, 2): 4 values.",
          [&] { step.run({{"observation", Floats(8)}}); });
  auto window = load("window").session(kBatch);
  const Floats signal(kBatch * 3 * 5);
  refused("a bundle of mode window takes no padding", [&] { window.run({{"signal", signal}}, Int32s{5, 4}); });
}

void c_api() {
  xlstm_options options = xlstm_default_options();
  options.device = XLSTM_DEVICE_CPU;
  options.threads = 1;
  xlstm_model* model = nullptr;
  CHECK(xlstm_model_load(network("sequence").c_str(), &options, &model) == XLSTM_OK);
  const xlstm_tensor* tensors = nullptr;
  CHECK(std::strcmp(xlstm_model_mode(model), "both") == 0 && xlstm_model_outputs(model, &tensors) == 3);
  CHECK(std::strcmp(tensors[1].name, "energy") == 0 && tensors[1].rank == 2 && tensors[1].time_axis == -1);
  CHECK(xlstm_model_inputs(model, &tensors) == 4 && tensors[2].dtype == XLSTM_INT64 && tensors[1].time_axis == 2);
  CHECK(tensors[1].shape[0] == -1 && tensors[1].shape[1] == 2 && tensors[1].shape[2] == -1);

  const Fed fed(4, 1);
  const xlstm_input inputs[] = {{"x", XLSTM_FLOAT32, fed.x.data(), fed.x.size()},
                                {"index", XLSTM_INT32, fed.index.data(), fed.index.size()},
                                {"side", XLSTM_FLOAT32, fed.side.data(), fed.side.size()},
                                {"speaker", XLSTM_INT64, fed.speaker.data(), fed.speaker.size()}};
  const std::int32_t lengths[] = {4, 2};
  xlstm_session* session = nullptr;
  CHECK(xlstm_session_create(model, kBatch, &session) == XLSTM_OK);
  xlstm_model_free(model);
  auto twin = load("sequence").session(kBatch);
  const xlstm_output* outputs = nullptr;
  for (const std::int32_t* given : {static_cast<const std::int32_t*>(nullptr), &lengths[0]}) {
    CHECK(xlstm_session_run(session, inputs, 4, given, &outputs) == XLSTM_OK);
    const auto expected = fed.run(twin, {given, given ? kBatch : 0});
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CHECK(outputs[i].name == expected[i].name && outputs[i].count == expected[i].size());
      CHECK(outputs[i].rank == expected[i].shape.size() && outputs[i].shape[0] == kBatch);
      CHECK(Floats(outputs[i].values, outputs[i].values + outputs[i].count) == copy(expected[i]));
    }
  }
  CHECK(xlstm_session_run(session, inputs, 3, nullptr, &outputs) == XLSTM_ERROR_ARGUMENT);
  CHECK(std::strstr(xlstm_last_error(), "Input speaker is missing."));
  xlstm_input wrong[] = {inputs[0], inputs[1], inputs[2], inputs[3]};
  const int seven = 7;
  std::memcpy(&wrong[3].dtype, &seven, sizeof seven);
  CHECK(xlstm_session_run(session, wrong, 4, nullptr, &outputs) == XLSTM_ERROR_ARGUMENT);
  CHECK(std::strstr(xlstm_last_error(), "Input speaker has the dtype 7, which is no xlstm_dtype."));
  wrong[3] = {nullptr, XLSTM_INT64, fed.speaker.data(), 2};
  CHECK(xlstm_session_run(session, wrong, 4, nullptr, &outputs) == XLSTM_ERROR_ARGUMENT);
  CHECK(xlstm_session_run(session, nullptr, 4, nullptr, &outputs) == XLSTM_ERROR_ARGUMENT);
  xlstm_session_free(session);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string test = argc > 1 ? argv[1] : "";
  if (test == "behaviour") return behaviour(), 0;
  if (test == "refusals") return refusals(), 0;
  if (test == "c_api") return c_api(), 0;
  return 64;
}
