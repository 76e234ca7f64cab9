// The parts that need no bundle and no back end: checksums, manifest, engine record, chunk buffers, state format,
// sampler, tokenizer, messages.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "check.h"
#include "runtime/checksum.h"
#include "runtime/chunk_buffers.h"
#include "runtime/engine_file.h"
#include "runtime/manifest.h"
#include "runtime/state_file.h"

using namespace xlstm::internal;
using xlstm::ErrorCode;

namespace {

constexpr char kManifest[] = R"({
  "format": "xlstm-bundle", "format_version": 2, "family": "xlstm", "dtype": "float32", "mode": "both", "batch": null,
  "input": {"name": "tokens", "dtype": "int64", "shape": ["batch", "sequence"]},
  "lengths": {"name": "lengths", "dtype": "int32", "shape": ["batch"]},
  "output": {"name": "logits", "dtype": "float32", "shape": ["batch", 1, 97]},
  "states": [{"input": "C", "output": "C.next", "dtype": "float32", "shape": ["batch", 2, 3, 5]},
             {"input": "m", "output": "m.next", "dtype": "float32", "shape": ["batch", 2]}],
  "tokenizer": null, "vocab_size": 97, "architecture": {"b": 1, "a": [true]},
  "source": {"path": "x", "sha256": "00"}, "weight_files": ["model.weights"], "producer": {}})";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  CHECK(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

void checksums() {
  const auto sha = [](const std::string& text) {
    Sha256 hash;
    for (std::size_t i = 0; i < text.size(); i += 7) {
      hash.update(text.data() + i, std::min<std::size_t>(7, text.size() - i));
    }
    return to_hex(hash.digest());
  };
  // FIPS 180-4's examples.
  CHECK(sha("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  // RFC 3720, appendix B.4, and the usual check value.
  CHECK(crc32c("123456789", 9) == 0xe3069283u);
  CHECK(crc32c(std::string(32, '\0').data(), 32) == 0x8a9136aau);
  CHECK(crc32c(std::string(32, '\xff').data(), 32) == 0x62a8ab43u);
}

void manifest() {
  const auto refused = [](const std::string& text, const std::string& part) {
    check_error(ErrorCode::bundle, part, [&] { parse_manifest(text, "m.json"); });
  };
  const Manifest good = parse_manifest(kManifest, "m.json");
  CHECK(good.batch == 0 && good.vocab_size == 97 && good.states.size() == 2 && good.state_row_elements() == 32);
  CHECK(good.lengths == "lengths" && good.input.any_positions() && !good.output.any_positions());
  CHECK((good.input.sized(2, 5) == std::vector<std::int64_t>{2, 5}) && good.input.row_bytes() == 8);
  CHECK((good.output.sized(2, 5) == std::vector<std::int64_t>{2, 1, 97}) && good.output.row_bytes() == 97 * 4);
  CHECK(good.architecture == R"({"a":[true],"b":1})");  // sorted: the hash does not depend on the order in the file
  refused("{", "m.json is not valid JSON");
  refused("[]", "is not a manifest");
  refused(replaced(kManifest, "xlstm-bundle", "other"), "is not a manifest");
  refused(replaced(kManifest, "\"format_version\": 2", "\"format_version\": 1"), "has format version 1");
  refused(replaced(kManifest, "\"family\"", "\"famly\""), "lacks family");
  refused(replaced(kManifest, "\"float32\", \"mode\"", "\"float64\", \"mode\""), "dtype is \"float64\", not one of");
  refused(replaced(kManifest, "2, 3, 5", "2, -3, 5"), "states[0].shape is");
  refused(replaced(kManifest, "2, 3, 5", "2, 3.5, 5"), "states[0].shape is");
  refused(replaced(kManifest, "2, 3, 5", "2000000000, 2000000000, 2000000000"), "states[0].shape is");
  refused(replaced(kManifest, "2, 3, 5", "18446744073709551615"), "states[0].shape is");
  refused(replaced(kManifest, "\"C\", ", "7, "), "states[0].input is 7, not a string");
  refused(replaced(kManifest, "\"batch\": null", "\"batch\": 0"), "batch is 0, not a positive number");
  refused(replaced(kManifest, "model.weights", "../model.weights"), "not a plain file name");
  refused(replaced(kManifest, "[\"model.weights\"]", "{}"), "weight_files is {}, not a list");
  refused(replaced(kManifest, "\"int64\"", "\"int32\""), "input.dtype is int32, not int64");
  refused(replaced(kManifest, "1, 97]", "1, 96]"), "the logits of the vocabulary");

  // The three modes, and what contradicts them.
  const Manifest all = parse_manifest(replaced(kManifest, "1, 97]", "\"sequence\", 97]"), "m.json");
  CHECK(all.output.any_positions() && all.output.row_elements() == 97);
  CHECK((all.output.sized(2, 5) == std::vector<std::int64_t>{2, 5, 97}));
  CHECK(parse_manifest(replaced(kManifest, "\"both\"", "\"prefill\""), "m.json").lengths == "lengths");
  const std::string lengths = R"({"name": "lengths", "dtype": "int32", "shape": ["batch"]})";
  const std::string without = replaced(kManifest, lengths, "null");
  const std::string step = replaced(replaced(without, "\"both\"", "\"step\""), "\"sequence\"", "1");
  const Manifest steps = parse_manifest(step, "m.json");
  CHECK(steps.lengths.empty() && !steps.input.any_positions());
  const std::string contradiction = "which lengths and the shapes of input and output contradict";
  refused(without, contradiction);
  refused(replaced(kManifest, "\"sequence\"", "1"), contradiction);
  refused(replaced(step, "\"lengths\": null", "\"lengths\": " + lengths), contradiction);
  refused(replaced(step, "\"batch\", 1]", "\"batch\", \"sequence\"]"), contradiction);
  refused(replaced(step, "1, 97]", "\"sequence\", 97]"), contradiction);
  refused(replaced(step, "\"batch\", 1]", "\"batch\", 2]"), "neither 1 nor the sequence");
  refused(replaced(kManifest, "\"both\"", "\"steps\""), "mode is \"steps\", not one of step, prefill, both");
  refused(replaced(kManifest, "\"lengths\": {", "\"length\": {"), "lacks lengths");
  refused(replaced(kManifest, "\"int32\"", "\"int64\""), "lengths is not an int32");
  refused(replaced(kManifest, "[\"batch\"]}", "[\"batch\", 1]}"), "lengths is not an int32");
  refused(replaced(kManifest, "2, 3, 5", "\"sequence\", 3, 5"), "states[0].shape is");
  check_error(ErrorCode::bundle, "is not a bundle: no manifest.json there", [] { xlstm::Model::load("/nonexistent"); });
}

// An engine is found with its profiles, and refused where its record does not fit.
void engine_record() {
  namespace fs = std::filesystem;
  const fs::path bundle = fs::temp_directory_path() / ("xlstm_test_" + std::to_string(std::random_device{}()));
  const fs::path engine = bundle / "engines" / "a.engine";
  fs::create_directories(engine.parent_path());
  const auto write = [](const fs::path& path, const std::string& text) { std::ofstream(path) << text; };
  const auto sha = [](const std::string& text) {
    Sha256 hash;
    hash.update(text.data(), text.size());
    return to_hex(hash.digest());
  };
  write(bundle / "model.onnx", "graph");
  write(bundle / "manifest.json", "manifest");
  write(engine, "0123456789");
  const std::string record = R"({"format": "xlstm-engine", "format_version": 2, "runtime": "tensorrt",
    "runtime_version": "11.4.1", "engine_bytes": 10, "options": {"version_compatible": false},
    "model": {"name": "model.onnx", "sha256": ")" +
                             sha("graph") + R"("}, "manifest": {"name": "manifest.json", "sha256": ")" +
                             sha("manifest") + R"("}, "plugins": null, "profiles": ["decode", "prefill"],
    "max_chunk": 128})";
  const auto find = [&](const std::string& text) {
    write(engine.string() + ".json", text);
    return find_engine(bundle, {}, 11);
  };
  const EngineFile both = find(record);
  CHECK(both.engine == engine && both.plugin_library.empty());
  CHECK(both.decode_profile == 0 && both.prefill_profile == 1 && both.max_chunk == 128);
  const std::string names = R"(["decode", "prefill"])";
  const EngineFile turned = find(replaced(record, names, R"(["prefill", "decode"])"));
  CHECK(turned.decode_profile == 1 && turned.prefill_profile == 0);
  const EngineFile prefill = find(replaced(record, names, R"(["prefill"])"));
  CHECK(prefill.decode_profile == 0 && prefill.prefill_profile == 0 && prefill.max_chunk == 128);
  const EngineFile decode = find(replaced(replaced(record, names, R"(["decode"])"), "128", "null"));
  CHECK(decode.decode_profile == 0 && decode.prefill_profile == -1 && decode.max_chunk == 0);

  const auto refused = [&](const std::string& text, const std::string& part) {
    check_error(ErrorCode::bundle, part, [&] { find(text); });
  };
  refused(replaced(record, "\"format_version\": 2", "\"format_version\": 1"), "is not a version 2 xlstm-engine file");
  refused(replaced(record, "profiles", "profile"), "is damaged");
  refused(replaced(record, names, "[]"), "has the profiles []");
  refused(replaced(record, names, R"(["decode", "decode"])"), "which this library does not know");
  refused(replaced(record, names, R"(["decode", "train"])"), "which this library does not know");
  refused(replaced(record, "128", "0"), "has a max_chunk of 0");
  refused(replaced(record, "128", "null"), "is damaged");
  refused(replaced(record, sha("graph"), sha("another graph")), "was built from another model.onnx");
  refused(replaced(record, "\"engine_bytes\": 10", "\"engine_bytes\": 11"), "has 10 bytes, not 11");
  fs::remove_all(bundle);
}

// A chunk's buffers grow to the largest chunk and are used again; each row's output is that of its last position.
void chunk_buffers() {
  for (const bool all_positions : {false, true}) {
    const Manifest manifest =
        parse_manifest(all_positions ? replaced(kManifest, "1, 97]", "\"sequence\", 97]") : kManifest, "m.json");
    ChunkBuffers buffers(manifest, 3, nullptr);
    std::vector<std::int64_t> tokens(3 * 8);
    std::iota(tokens.begin(), tokens.end(), 0);
    const std::int32_t lengths[] = {8, 0, 2};
    std::vector<float> wanted(97, -1.0f);
    float* const outputs[] = {nullptr, nullptr, wanted.data()};
    buffers.load({8, tokens.data(), lengths, outputs});
    CHECK(std::memcmp(buffers.input(), tokens.data(), sizeof(std::int64_t) * tokens.size()) == 0);
    CHECK(std::memcmp(buffers.lengths(), lengths, sizeof lengths) == 0);
    const std::size_t positions = all_positions ? 8 : 1;
    CHECK(buffers.output_bytes(8) == 3 * positions * 97 * sizeof(float));
    auto* output = static_cast<float*>(buffers.output());
    std::iota(output, output + 3 * positions * 97, 0.0f);
    buffers.fetch({8, tokens.data(), lengths, outputs});
    const std::size_t row = all_positions ? 2 * 8 + 1 : 2;  // row 2, its second position
    CHECK(wanted.front() == static_cast<float>(row * 97) && wanted.back() == static_cast<float>(row * 97 + 96));

    void* const places[] = {buffers.input(), buffers.lengths(), buffers.output()};
    for (const std::size_t smaller : {1, 5, 8}) {
      buffers.load({smaller, tokens.data(), lengths, outputs});
      CHECK(buffers.input() == places[0] && buffers.lengths() == places[1] && buffers.output() == places[2]);
    }
    tokens.resize(3 * 100, 7);
    buffers.load({100, tokens.data(), lengths, outputs});
    CHECK(std::memcmp(buffers.input(), tokens.data(), sizeof(std::int64_t) * tokens.size()) == 0);
    std::memset(buffers.output(), 1, buffers.output_bytes(100));  // the address sanitizer looks on
  }
}

void states() {
  const Manifest manifest = parse_manifest(kManifest, "m.json");
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

void sampler() {
  const std::vector<float> logits{1, 3, 3, -2, 2.5f};
  CHECK(xlstm::Sampler({0, 0, 1, 0})(logits) == 1);  // greedy, ties to the lower
  CHECK(xlstm::Sampler({1, 1, 1, 9})(logits) == 1);
  CHECK(xlstm::Sampler({1, 0, 1e-9, 9})(logits) == 1);
  int counts[5] = {};
  xlstm::Sampler top3({1, 3, 1, 5});
  for (int i = 0; i < 3000; ++i) ++counts[top3(logits)];
  // Tokens 1 and 2 have 1 / (2 + e^-0.5) = 0.384 each: 1151 of 3000, with a standard deviation of 27.
  CHECK(counts[0] == 0 && counts[3] == 0 && std::abs(counts[1] - 1151) < 135 && std::abs(counts[2] - 1151) < 135);
  // A NaN is the greatest; where the greatest is not finite, it is chosen, and a number is drawn all the same.
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (const xlstm::Sampling& sampling : {xlstm::Sampling{0, 0, 1, 5}, {1, 0, 1, 5}, {1, 2, 0.5, 5}}) {
    CHECK(xlstm::Sampler(sampling)(std::vector<float>{5, nan, inf, -nan, 7}) == 1);
    CHECK(xlstm::Sampler(sampling)(std::vector<float>{5, -inf, inf, inf, 7}) == 2);
    CHECK(xlstm::Sampler(sampling)(std::vector<float>{-inf, -inf, -inf}) == 0);
  }
  xlstm::Sampler broken({1, 0, 1, 5}), whole({1, 0, 1, 5});
  broken(std::vector<float>{nan, 1}), whole(logits);
  for (int i = 0; i < 20; ++i) CHECK(broken(logits) == whole(logits));
  check_error(ErrorCode::argument, "The temperature is -1", [] { xlstm::Sampler({-1, 0, 1, 0}); });
  check_error(ErrorCode::argument, "top-p is 0", [] { xlstm::Sampler({1, 0, 0, 0}); });
  check_error(ErrorCode::argument, "There are no logits", [] { xlstm::Sampler()(xlstm::Span<const float>()); });
}

void tokenizer() {
  const xlstm::ByteTokenizer bytes;
  CHECK((bytes.encode("a\xff") == std::vector<std::int64_t>{97, 255}));
  CHECK(bytes.decode(bytes.encode("gr\xc3\xbc\xc3\x9f")) == "gr\xc3\xbc\xc3\x9f");
  check_error(ErrorCode::argument, "Token 256 is not a byte", [&] { bytes.decode(std::vector<std::int64_t>{256}); });
}

}  // namespace

int main() {
  checksums();
  manifest();
  engine_record();
  chunk_buffers();
  states();
  sampler();
  tokenizer();
}
