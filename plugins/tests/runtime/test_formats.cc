// The readers of FORMAT.md: manifest, sidecar, saved state. The corpus of good and bad files, damaged files, and what
// the readers make of a good one.   test_formats TESTS-FOLDER
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>

#include "check.h"
#include "runtime/engine_record.h"
#include "runtime/manifest.h"
#include "runtime/state_file.h"

using namespace xlstm::internal;
using xlstm::ErrorCode;
namespace fs = std::filesystem;

namespace {

constexpr char kManifest[] = R"({
  "format": "xlstm-bundle", "format_version": 3, "family": "xlstm", "dtype": "float32", "mode": "both", "batch": null,
  "inputs": [{"name": "tokens", "dtype": "int64", "shape": ["batch", "sequence"]}],
  "lengths": {"name": "lengths", "dtype": "int32", "shape": ["batch"]},
  "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 1, 97]}],
  "states": [{"input": "C", "output": "C.next", "dtype": "float32", "shape": ["batch", 2, 3, 5], "in_place": true},
             {"input": "m", "output": "m.next", "dtype": "float32", "shape": ["batch", 2]}],
  "tokenizer": null, "vocab_size": 97, "architecture": {"b": 1, "a": [true, 1.0, 1e-5, 0.0001, 1e14, 1e15]},
  "source": {"path": "x", "sha256": "HASH"}, "weight_files": ["model.weights"], "producer": {}})";

constexpr char kEngine[] = R"({
  "format": "xlstm-engine", "format_version": 2, "engine": {"name": "a.engine", "sha256": "HASH"}, "engine_bytes": 10,
  "runtime": "tensorrt", "runtime_version": "11.4.1", "targets": ["sm89"], "gpu": null, "dtype": "float32",
  "batch": [1, 2, 4], "profiles": ["decode", "prefill"], "max_chunk": 128, "tensors": [],
  "model": {"name": "model.onnx", "sha256": "HASH"}, "manifest": {"name": "manifest.json", "sha256": "HASH"},
  "plugins": null, "options": {"version_compatible": false, "hardware_compatible": false, "tf32": false,
  "stripped_functions": false, "products_as_sums": false}, "seconds": 1.5, "producer": {}})";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  CHECK(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

xlstm::Span<const std::uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

// Reads a file as what its folder says it is; `like`: the manifest of the saved states' model.
void read(const std::string& kind, const std::string& text, const Manifest& like) {
  if (kind == "manifest") parse_manifest(text, "it");
  if (kind == "engine") parse_engine_record(text, "it");
  if (kind == "state") decode_state(like, model_hash("", like), 2, bytes_of(text), "it");
}

// Good files are accepted, bad ones refused; and whatever is done to any, nothing else happens.
void corpus(const fs::path& tests) {
  const Manifest like = parse_manifest(text_of(tests / "good_bundles" / "manifest" / "both.json"), "both.json");
  std::mt19937 random(1);
  for (const std::string kind : {"manifest", "engine", "state"}) {
    const ErrorCode code = kind == "state" ? ErrorCode::state : ErrorCode::bundle;
    for (const std::string verdict : {"good_bundles", "bad_bundles"}) {
      int files = 0;
      for (const auto& entry : fs::directory_iterator(tests / verdict / kind)) {
        const std::string text = text_of(entry.path());
        ++files;
        if (verdict == "good_bundles") {
          read(kind, text, like);
        } else {
          check_error(code, "", [&] { read(kind, text, like); });
        }
        for (int round = 0; round < 40 && !text.empty(); ++round) {
          std::string damaged = text;
          for (std::size_t i = 0; i <= random() % 3; ++i) {
            const std::size_t at = random() % damaged.size();
            if (round % 4 == 0) damaged.erase(at, random() % 9);
            if (round % 4 == 1) damaged.insert(at, damaged, random() % damaged.size(), random() % 9);
            if (round % 4 >= 2) damaged[at] = static_cast<char>(random());
            if (damaged.empty()) break;
          }
          try {
            read(kind, damaged, like);
          } catch (const xlstm::Error& error) {
            CHECK(error.code() == code);
          }
        }
      }
      CHECK(files > 0);
    }
  }
}

void manifest(const fs::path& tests) {
  const auto refused = [](const std::string& text, const std::string& part) {
    check_error(ErrorCode::bundle, part, [&] { parse_manifest(text, "m.json"); });
  };
  const std::string text = replaced(kManifest, "HASH", std::string(64, 'a'));
  const Manifest good = parse_manifest(text, "m.json");
  CHECK(good.batch == 0 && good.vocab_size == 97 && good.states.size() == 2 && good.state_row_elements() == 32);
  CHECK(good.bos_token == -1 && good.eos_tokens.empty());
  const Manifest ends = parse_manifest(
      replaced(text, "\"vocab_size\"", "\"bos_token_id\": 0, \"eos_token_ids\": [96, 3], \"vocab_size\""), "m.json");
  CHECK(ends.bos_token == 0 && (ends.eos_tokens == std::vector<std::int64_t>{96, 3}));
  CHECK(good.gives_logits() && good.source_sha256 == std::string(64, 'a'));
  CHECK(good.lengths == "lengths" && good.is_single() && good.input().time_axis() == 1);
  CHECK((good.input().sized(2, 5) == std::vector<std::int64_t>{2, 5}) && good.input().bytes(2, 5) == 80);
  CHECK((good.output().sized(2, 5) == std::vector<std::int64_t>{2, 1, 97}) && good.output().bytes(2, 5) == 2 * 97 * 4);
  CHECK(good.output().time_axis() == -1 && good.states[0].in_place && !good.states[1].in_place);
  CHECK(good.architecture == R"({"a":[true,1.0,1e-05,0.0001,100000000000000.0,1e+15],"b":1})");  // sorted
  const Manifest all = parse_manifest(replaced(text, "1, 97]", "\"sequence\", 97]"), "m.json");
  CHECK(all.output().time_axis() == 1 && all.output().row_elements() == 97);
  CHECK((all.output().sized(2, 5) == std::vector<std::int64_t>{2, 5, 97}));
  std::string step = replaced(text, R"({"name": "lengths", "dtype": "int32", "shape": ["batch"]})", "null");
  step = replaced(replaced(step, "\"both\"", "\"step\""), "\"sequence\"", "1");
  CHECK(parse_manifest(step, "m.json").lengths.empty() && parse_manifest(step, "m.json").input().time_axis() == -1);
  const auto corpus = [&](const char* name) {
    return parse_manifest(text_of(tests / "good_bundles" / "manifest" / name), name);
  };
  const Manifest network = corpus("network-of-two-inputs-and-outputs.json"), window = corpus("window.json");
  CHECK(network.inputs.size() == 2 && network.outputs.size() == 2 && !network.is_single() && !network.gives_logits());
  CHECK(network.inputs[1].time_axis() == -1 && network.inputs[1].bytes(2, 5) == 16);
  CHECK(corpus("vectors-in-and-out.json").is_single() && !corpus("network-fed-integers.json").is_single());
  CHECK(window.is_window() && window.inputs[0].time_axis() == 2 && window.outputs[0].is_known());
  CHECK((window.inputs[0].sized(2, 9) == std::vector<std::int64_t>{2, 12, 9}) && !window.outputs[1].is_known());

  // A message says where, what and what to do.
  refused("{", "m.json is not valid JSON");
  refused("[]", "m.json is not a manifest of xlstm-export");
  refused(replaced(text, "\"format_version\": 3", "\"format_version\": 1"),
          "m.json has format version 1; this library");
  refused(replaced(text, "\"family\"", "\"famly\""), "m.json: family missing. Export the bundle again.");
  refused(replaced(text, "\"C\", ", "7, "), "m.json: states[0].input is 7, not a text. Export the bundle again.");
  refused(replaced(text, "1, 97]", "1, 96]"), "output is logits of width 96, which is not vocab_size");
  check_error(ErrorCode::bundle, "is not a bundle: no manifest.json there", [] { xlstm::Model::load("/nonexistent"); });
}

void engine_record() {
  std::string text = kEngine;
  while (text.find("HASH") != std::string::npos) text = replaced(text, "HASH", std::string(64, 'a'));
  const auto parse = [](const std::string& json) { return parse_engine_record(json, "e.json"); };
  const EngineRecord both = parse(text);
  CHECK(both.runtime == "tensorrt" && both.major_version() == 11 && both.plugins.empty());
  CHECK(both.least_batch == 1 && both.most_batch == 4 && both.engine_bytes == 10);
  CHECK(both.decode_profile == 0 && both.prefill_profile == 1 && both.max_chunk == 128);
  const std::string names = R"(["decode", "prefill"])";
  const EngineRecord prefill = parse(replaced(text, names, R"(["prefill"])"));
  CHECK(prefill.decode_profile == 0 && prefill.prefill_profile == 0 && prefill.max_chunk == 128);
  const EngineRecord decode = parse(replaced(replaced(text, names, R"(["decode"])"), "128", "null"));
  CHECK(decode.decode_profile == 0 && decode.prefill_profile == -1 && decode.max_chunk == 0);
  check_error(ErrorCode::bundle, "e.json: max_chunk and the profile prefill go together. Build the engine again.",
              [&] { parse(replaced(text, "128", "null")); });
}

void states() {
  const Manifest manifest = parse_manifest(replaced(kManifest, "HASH", std::string(64, 'a')), "m.json");
  const std::string hash(64, 'a'), other_hash(64, 'b');
  const int batch = 2;
  const std::vector<std::uint8_t> good =
      encode_state(manifest, hash, batch, [](float* payload) { std::iota(payload, payload + 64, 1.0f); });
  CHECK(good.size() == 24 + 32 + 8 + 4 * (1 + 3 + 1 + 1) + 64 * 4);
  const auto decode = [&](const std::vector<std::uint8_t>& bytes, const std::string& h, int b) {
    return decode_state(manifest, h, b, bytes, "s.state");
  };
  const auto payload = decode(good, hash, batch);
  float first = 0;
  std::memcpy(&first, payload.data(), sizeof first);
  CHECK(payload.size() == 256 && first == 1.0f);

  const auto refused = [&](const std::vector<std::uint8_t>& bytes, const std::string& part) {
    check_error(ErrorCode::state, part, [&] { decode(bytes, hash, batch); });
  };
  refused({}, "is not a saved state");
  refused(std::vector<std::uint8_t>(good.begin(), good.begin() + 200), "is truncated: 176 bytes of 320");
  auto changed = good;
  changed.push_back(0);
  refused(changed, "is too long");
  changed = good;
  changed[8] = 2;
  refused(changed, "has format version 2; this library reads version 1");
  changed = good;
  changed[300] ^= 0x10;
  refused(changed, "is damaged: its checksum does not match");
  check_error(ErrorCode::state, "was saved by another model", [&] { decode(good, other_hash, batch); });
  check_error(ErrorCode::state, "holds 2 sequences; this session has a batch of 3", [&] { decode(good, hash, 3); });
  Manifest reshaped = manifest;
  std::swap(reshaped.states[0].shape[1], reshaped.states[0].shape[2]);
  check_error(ErrorCode::state, "does not hold the states of this model",
              [&] { decode_state(reshaped, hash, batch, good, "s.state"); });

  // Fuzzing: every truncation, every bit flipped, and random damage of several bytes are refused, and nothing is read
  // out of bounds (the address sanitizer looks on).
  for (std::size_t size = 0; size < good.size(); ++size) {
    refused(std::vector<std::uint8_t>(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)), "s.state");
  }
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    changed = good;
    changed[bit / 8] ^= static_cast<std::uint8_t>(1 << bit % 8);
    refused(changed, "s.state");
  }
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    changed = good;
    const std::size_t at = random() % changed.size();
    for (std::size_t i = 0; i <= random() % 8; ++i) {
      changed[(at + i) % changed.size()] ^= static_cast<std::uint8_t>(1 + random() % 255);
    }
    if (round % 4 == 0) changed.resize(random() % (2 * good.size()));
    if (round % 3 == 0 && changed.size() > 24) seal_state(changed);  // a valid checksum over damaged contents
    if (changed == good) continue;
    try {
      CHECK(decode(changed, hash, batch).size() == 256);  // only the payload differs, under a valid checksum
      CHECK(round % 3 == 0);
    } catch (const xlstm::Error& error) {
      CHECK(error.code() == ErrorCode::state);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc == 2);
  corpus(argv[1]);
  manifest(argv[1]);
  engine_record();
  states();
}
