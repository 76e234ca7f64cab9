// The parts that need no bundle and no back end: checksums, buffers of passes and states, sampler, tokenizer.
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "check.h"
#include "runtime/checksum.h"
#include "runtime/pass_buffers.h"
#include "runtime/states.h"

using namespace xlstm::internal;
using xlstm::ErrorCode;

namespace {

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

// A pass's buffers grow to the largest pass and are used again; whatever the axis of time, and whatever else is fed.
void pass_buffers() {
  for (const bool all_positions : {false, true}) {
    Manifest manifest;
    manifest.inputs = {{"tokens", "int64", {0, 0}}, {"gain", "float32", {0, 2}}};
    manifest.outputs = {{"logits", "float32", {0, all_positions ? 0 : 1, 97}}, {"map", "float32", {0, 3, kUnknown}}};
    manifest.lengths = "lengths";
    PassBuffers buffers(manifest, 3, nullptr);
    std::vector<std::int64_t> tokens(3 * 8);
    std::iota(tokens.begin(), tokens.end(), 0);
    const std::vector<float> gains{1, 2, 3, 4, 5, 6}, map(12);
    const void* const inputs[] = {tokens.data(), gains.data()};
    const std::int32_t lengths[] = {8, 0, 2};
    buffers.fill({8, inputs, lengths});
    CHECK(std::memcmp(buffers.input(0), tokens.data(), sizeof(std::int64_t) * tokens.size()) == 0);
    CHECK(std::memcmp(buffers.input(1), gains.data(), sizeof(float) * gains.size()) == 0);
    CHECK(std::memcmp(buffers.lengths(), lengths, sizeof lengths) == 0);
    const std::size_t positions = all_positions ? 8 : 1, values = 3 * positions * 97;
    auto* output = static_cast<float*>(buffers.output(0));
    std::iota(output, output + values, 0.0f);
    std::vector<float> wanted(97, -1.0f);
    float* const to[] = {nullptr, nullptr, wanted.data()};
    buffers.fetch_last(lengths, to);
    const std::size_t row = all_positions ? 2 * 8 + 1 : 2;  // row 2, its second position
    CHECK(wanted.front() == static_cast<float>(row * 97) && wanted.back() == static_cast<float>(row * 97 + 96));
    buffers.tell(1, map.data(), {3, 3, 4});
    const xlstm::Outputs outputs = buffers.fetch();
    CHECK(outputs.size() == 2 && outputs[0].name == "logits" && outputs[0].size() == values);
    CHECK(outputs["logits"].data[values - 1] == static_cast<float>(values - 1));
    CHECK(outputs["map"].data == map.data() && outputs["map"].size() == 36 && outputs["map"].shape[2] == 4);
    check_error(ErrorCode::argument, "There is no output y. The model gives logits, map.", [&] { outputs["y"]; });

    const int version = buffers.version();
    void* const places[] = {buffers.input(0), buffers.lengths(), buffers.output(0)};
    for (const std::size_t smaller : {1, 5, 8}) {
      buffers.fill({smaller, inputs, nullptr});
      CHECK(buffers.input(0) == places[0] && buffers.lengths() == places[1] && buffers.output(0) == places[2]);
      CHECK(static_cast<const std::int32_t*>(buffers.lengths())[1] == static_cast<std::int32_t>(smaller));
    }
    CHECK(buffers.version() == version);
    tokens.resize(3 * 100, 7);
    const void* const more[] = {tokens.data(), gains.data()};
    buffers.fill({100, more, lengths});
    CHECK(buffers.version() > version);
    CHECK(std::memcmp(buffers.input(0), tokens.data(), sizeof(std::int64_t) * tokens.size()) == 0);
    std::memset(buffers.output(0), 1, manifest.outputs[0].bytes(3, 100));  // the address sanitizer looks on
  }
}

// What a kernel may update in place is in both sets the same memory; all else changes sides.
void states() {
  Manifest manifest;
  manifest.states = {{"C", "C.next", "float32", {0, 3}, true}, {"w", "w.next", "float32", {0, 2}, false}};
  for (const bool in_place : {false, true}) {
    StateBuffers states(manifest, 2, nullptr, in_place), other(manifest, 2, nullptr, in_place);
    CHECK(states.any_in_place() == in_place && (states.tensor(0, 0) == states.tensor(1, 0)) == in_place);
    CHECK(states.tensor(0, 1) != states.tensor(1, 1));
    std::vector<float> values{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, found(10);
    for (int turn = 0; turn < 2; ++turn, states.advance()) {
      states.write(values.data());
      states.reset(1);
      states.read(found.data());
      CHECK((found == std::vector<float>{1, 2, 3, 0, 0, 0, 7, 8, 0, 0}));
      other.copy(states);
      states.reset(-1);
      states.read(found.data());
      CHECK(found == std::vector<float>(10));
      other.read(found.data());
      CHECK((found == std::vector<float>{1, 2, 3, 0, 0, 0, 7, 8, 0, 0}));
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
  pass_buffers();
  states();
  sampler();
  tokenizer();
}
