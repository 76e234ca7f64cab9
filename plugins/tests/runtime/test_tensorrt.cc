// The TensorRT back end on a stand-in of TensorRT and the CUDA driver: profiles, chunks, state sets, CUDA graphs; and
// batches that share a stream.
//   test_tensorrt STAND-IN-LIBRARY
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <random>
#include <thread>

#include "check.h"
#include "runtime/batch.h"
#include "runtime/checksum.h"

namespace fs = std::filesystem;
using xlstm::ErrorCode;
using Tokens = std::vector<std::int64_t>;

namespace {

constexpr int kBatch = 3;
constexpr std::size_t kVocabulary = 5;

std::string hash_line(const char* key, const std::string& name, const std::string& text) {
  xlstm::internal::Sha256 hash;
  hash.update(text.data(), text.size());
  return std::string("\"") + key + R"(": {"name": ")" + name + R"(", "sha256": ")" +
         xlstm::internal::to_hex(hash.digest()) + "\"}, ";
}

// A bundle with an engine of the stand-in's model; `profiles` as in the engine's record. `network`: it has no
// vocabulary, and one input and output more. Mode `window` is a network's.
void write_bundle(const fs::path& folder, const std::string& mode, const std::string& profiles, bool all_positions,
                  bool network = false) {
  const bool steps = mode == "step", window = mode == "window";
  const std::string sequence = steps ? "1" : "\"sequence\"";
  const std::string state = R"({"input": "s", "output": "s.next", "dtype": "float32", "shape": ["batch", 3]})";
  const std::string manifest =
      R"({"format": "xlstm-bundle", "format_version": 3, "family": "xlstm", "dtype": "float32", "batch": null, "mode": ")" +
      mode + R"(", "inputs": [)" + (network ? R"({"name": "gain", "dtype": "float32", "shape": ["batch", 2]}, )" : "") +
      R"({"name": "tokens", "dtype": "int64", "shape": ["batch", )" + sequence + R"(]}], "lengths": )" +
      (steps || window ? "null" : R"({"name": "lengths", "dtype": "int32", "shape": ["batch"]})") +
      R"(, "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", )" + (all_positions ? sequence : "1") +
      ", 5]}" + (network ? R"(, {"name": "energy", "dtype": "float32", "shape": ["batch"]})" : "") +
      R"(], "states": [)" + (window ? "" : state) + R"(], "tokenizer": null, "vocab_size": )" +
      (network ? "null" : "5") +
      R"(, "architecture": {}, "source": {"path": "x", "sha256": null}, "weight_files": [], "producer": {}})";
  std::string engine = steps || window ? "" : "lengths ";
  if (all_positions) engine += "all_positions ";
  if (network) engine += "network ";
  if (window) engine += "stateless ";
  for (const char* name : {"decode", "prefill", "window"}) {
    if (profiles.find(name) != std::string::npos) engine += std::string(name) + " ";
  }
  const std::string record =
      R"({"format": "xlstm-engine", "format_version": 2, "engine": {"name": "a.engine", "sha256": ")" +
      std::string(64, '0') + R"("}, "runtime": "tensorrt", "runtime_version": "11.0", "targets": [], "gpu": null,
      "dtype": "float32", "batch": [1, 1, 4], "tensors": [], "plugins": null, "options": {"version_compatible": false,
      "hardware_compatible": false, "tf32": false, "stripped_functions": false, "products_as_sums": false},
      "seconds": 0, "producer": {}, )" +
      hash_line("model", "model.onnx", "graph") + hash_line("manifest", "manifest.json", manifest) +
      "\"engine_bytes\": " + std::to_string(engine.size()) + ", \"profiles\": " + profiles +
      ", \"max_chunk\": " + (steps || profiles == R"(["decode"])" ? "null" : "16") + "}";
  const auto write = [&](const fs::path& name, const std::string& text) { std::ofstream(folder / name) << text; };
  fs::create_directories(folder / "engines");
  write("model.onnx", "graph");
  write("manifest.json", manifest);
  write("engines/a.engine", engine);
  write("engines/a.engine.json", record);
}

// The stand-in's model, row by row.
class Expected {
 public:
  void feed(std::size_t row, std::int64_t token) { state_[row] = state_[row] / 2 + static_cast<float>(token); }
  void reset(std::size_t row) { state_[row] = 0; }
  void check(xlstm::Span<const float> logits, std::size_t row) const {
    for (std::size_t i = 0; i < kVocabulary; ++i) CHECK(logits[i] == state_[row] * static_cast<float>(i + 1));
  }

 private:
  float state_[kBatch] = {};
};

// Steps, prompts and resets in any order give what the rows' tokens give one by one.
void mixed_use(const xlstm::Model& model, bool ragged) {
  std::mt19937 random(1);
  const auto tokens = [&](std::size_t count) {
    Tokens result(count);
    for (auto& token : result) token = random() % 4;
    return result;
  };
  auto session = model.session(kBatch);
  Expected expected;
  for (int round = 0; round < 100; ++round) {
    const unsigned what = random() % 4;
    if (what == 0) {
      const Tokens fed = tokens(kBatch);
      const auto logits = session.step(fed);
      for (std::size_t row = 0; row < kBatch; ++row) expected.feed(row, fed[row]), expected.check(logits[row], row);
    } else if (what < 3) {
      const std::size_t length = 1 + random() % 40;
      std::vector<Tokens> prompts(kBatch);
      for (auto& prompt : prompts) prompt = tokens(ragged && what == 1 ? random() % length : length);
      Tokens joined;
      for (const auto& prompt : prompts) joined.insert(joined.end(), prompt.begin(), prompt.end());
      const auto logits = what == 1 ? session.prefill(prompts) : session.prefill(joined);
      for (std::size_t row = 0; row < kBatch; ++row) {
        for (const auto token : prompts[row]) expected.feed(row, token);
        if (prompts[row].empty()) {
          CHECK(logits[row][0] == 0);
        } else {
          expected.check(logits[row], row);
        }
      }
    } else {
      session.reset(1), expected.reset(1);
      const auto saved = session.save();
      auto fork = session.fork();
      fork.step(Tokens(kBatch, 3));
      session.prefill(Tokens(kBatch * 5, 3));
      session.load(saved);
    }
  }
}

// The error names the profile, and the states are those after the last good chunk.
void errors(const xlstm::Model& model) {
  check_error(ErrorCode::argument, "The engine's decode profile takes s of 1x3 to 4x3, not 5x3",
              [&] { model.session(5); });
  auto four = model.session(4);
  const auto before = four.save();
  check_error(ErrorCode::argument, "The engine's prefill profile takes s of 1x3 to 3x3, not 4x3",
              [&] { four.prefill(Tokens(8, 1)); });
  CHECK(four.save() == before);

  Tokens text(40, 1);
  text[35] = 4;  // fails, in the third chunk of 16
  auto session = model.session(), good = model.session();
  check_error(ErrorCode::runtime, "TensorRT failed on the engine's prefill profile", [&] { session.prefill(text); });
  good.prefill(Tokens(32, 1));
  CHECK(session.save() == good.save());
}

// Networks are fed by name: steps from CUDA graphs, passes of any length with padding, and windows.
void networks(const xlstm::Model& model) {
  const bool window = model.info().mode == "window", steps = model.info().mode == "step";
  CHECK(model.info().inputs[0].name == "gain" && model.info().outputs[1].name == "energy");
  std::mt19937 random(2);
  auto session = model.session(kBatch);
  Expected expected;
  float state[kBatch] = {};
  for (int round = 0; round < 60; ++round) {
    const std::size_t positions = steps || round % 3 == 0 ? 1 : 1 + random() % 16;
    Tokens tokens(kBatch * positions);
    for (auto& token : tokens) token = random() % 4;
    const std::vector<float> gain{1, 0, static_cast<float>(random() % 8), 0, -2, 0};
    std::vector<std::int32_t> lengths;
    for (int row = 0; row < kBatch && !steps && !window && round % 2; ++row) {
      lengths.push_back(static_cast<std::int32_t>(random() % (positions + 1)));
    }
    const auto outputs = session.run({{"tokens", tokens}, {"gain", gain}}, lengths);
    CHECK(outputs["logits"].shape[1] == static_cast<std::int64_t>(positions) && outputs["energy"].size() == kBatch);
    for (std::size_t row = 0; row < kBatch; ++row) {
      if (window) expected.reset(row), state[row] = 0;
      const std::size_t length = lengths.empty() ? positions : static_cast<std::size_t>(lengths[row]);
      for (std::size_t t = 0; t < length; ++t) {
        expected.feed(row, tokens[row * positions + t]);
        state[row] = state[row] / 2 + static_cast<float>(tokens[row * positions + t]);
        expected.check({outputs["logits"].data + (row * positions + t) * kVocabulary, kVocabulary}, row);
      }
      if (length) CHECK(outputs["energy"].data[row] == state[row] * gain[2 * row]);
    }
    if (round % 7 == 0) session = session.fork();
  }
  const std::vector<float> gain(kBatch * 2);
  if (steps) {
    check_error(ErrorCode::argument, "expected int64 (3, 1): 3 values",
                [&] { session.run({{"tokens", Tokens(kBatch * 2)}, {"gain", gain}}); });
  } else {
    const std::string profile = window ? "window" : "prefill";
    check_error(ErrorCode::argument, "The engine's " + profile + " profile takes tokens of 1x1 to 3x16, not 3x17",
                [&] { session.run({{"tokens", Tokens(kBatch * 17)}, {"gain", gain}}); });
  }
}

// Two batches that share a stream work in turn: no call of one falls into a call of the other, nor into its making and
// unmaking.
void turns() {
  using namespace xlstm::internal;
  Manifest manifest;
  manifest.inputs = {{"tokens", "int64", {0, 1}}};
  manifest.outputs = {{"logits", "float32", {0, 1, kVocabulary}}};
  manifest.states = {{"s", "s.next", "float32", {0, 3}}};
  const CudaDevice device(0);
  const auto stream = std::make_shared<const CudaStream>(device);
  std::mutex turn;
  int inside = 0;  // unguarded but for the turn: the thread sanitizer looks on

  struct Exclusive : Runner {
    explicit Exclusive(int& counter) : inside(counter) { work(); }
    ~Exclusive() override { work(); }
    void step() override { work(); }
    void prepare() override { work(); }
    void pass() override { work(); }
    void work() const {
      CHECK(++inside == 1);
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      CHECK(--inside == 0);
    }
    int& inside;
  };
  const auto use = [&] {
    for (int round = 0; round < 50; ++round) {
      Batch batch(manifest, 1, {stream, &turn}, [&](BatchBuffers&) { return std::make_unique<Exclusive>(inside); });
      std::vector<float> states(3);
      for (int step = 0; step < 10; ++step) {
        const std::int64_t token = 0;
        const void* const input = &token;
        batch.run({1, &input, nullptr});
        batch.write_states(states.data());
        batch.read_states(states.data());
        batch.reset(0);
      }
    }
  };
  std::thread other(use);
  use();
  other.join();
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc == 2);
  const fs::path bundle = fs::temp_directory_path() / ("xlstm_test_" + std::to_string(std::random_device{}()));
  const auto load = [&](bool graph, int chunk) {
    xlstm::Options options;
    options.backend = xlstm::Backend::tensorrt;
    options.tensorrt_library = argv[1];
    options.cuda_graph = graph;
    options.chunk = chunk;
    return xlstm::Model::load(bundle, options);
  };
  for (const bool graph : {true, false}) {
    for (const bool all_positions : {false, true}) {
      for (const char* profiles : {R"(["decode", "prefill"])", R"(["prefill"])"}) {
        write_bundle(bundle, std::strlen(profiles) > 11 ? "both" : "prefill", profiles, all_positions);
        for (const int chunk : {0, 1, 5, 16, 100}) {
          const auto model = load(graph, chunk);
          CHECK(model.info().chunk == (chunk == 0 || chunk == 100 ? 16 : chunk));
          mixed_use(model, true);
        }
        if (profiles[2] == 'd') errors(load(graph, 0));
      }
    }
    write_bundle(bundle, "step", R"(["decode"])", false);
    CHECK(load(graph, 0).info().chunk == 0);
    mixed_use(load(graph, 0), false);
  }
  for (const bool graph : {true, false}) {
    for (const char* mode : {"both", "prefill", "step", "window"}) {
      const std::string name = mode;
      const std::string profiles = name == "both"   ? R"(["decode", "prefill"])"
                                   : name == "step" ? R"(["decode"])"
                                                    : "[\"" + name + "\"]";
      write_bundle(bundle, mode, profiles, true, true);
      networks(load(graph, 0));
    }
  }
  write_bundle(bundle, "prefill", R"(["window"])", true, true);
  check_error(ErrorCode::bundle, "not those that the bundle and the file beside it name", [&] { load(true, 0); });
  write_bundle(bundle, "both", R"(["decode"])", true, true);
  check_error(ErrorCode::argument, "The engine takes one position a pass, not 2: it has no prefill profile.",
              [&] { load(true, 0).session().run({{"tokens", Tokens(2)}, {"gain", std::vector<float>(2)}}); });
  write_bundle(bundle, "prefill", R"(["prefill"])", false);
  check_error(ErrorCode::argument, "The engine's prefill profile takes s of 1x3 to 3x3, not 4x3",
              [&] { load(true, 0).session(4); });
  fs::remove_all(bundle);
  turns();
}
