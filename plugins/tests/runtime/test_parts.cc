// The parts that need no bundle and no back end: checksums, chunk buffers, sampler, tokenizer.
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "check.h"
#include "runtime/checksum.h"
#include "runtime/chunk_buffers.h"

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

// A chunk's buffers grow to the largest chunk and are used again; each row's output is that of its last position.
void chunk_buffers() {
  for (const bool all_positions : {false, true}) {
    Manifest manifest;
    manifest.input = {"tokens", "int64", {0, 0}};
    manifest.output = {"logits", "float32", {0, all_positions ? 0 : 1, 97}};
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
  chunk_buffers();
  sampler();
  tokenizer();
}
