#include "runtime/state_file.h"

#include <algorithm>
#include <cstring>

#include "runtime/checksum.h"

namespace xlstm::internal {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the payload is copied as it lies in memory");

constexpr std::uint8_t kMagic[8] = {0x89, 'X', 'L', 'S', 'T', 'M', 0x0d, 0x0a};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kVersionAt = 8, kChecksumAt = 12, kSizeAt = 16, kBodyAt = 24, kHashBytes = 32, kBatchAt = 56;

template <class T>
T read(const std::uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <class T>
void append(std::vector<std::uint8_t>& bytes, T value) {
  const auto p = reinterpret_cast<const std::uint8_t*>(&value);
  bytes.insert(bytes.end(), p, p + sizeof value);
}

void append_hash(std::vector<std::uint8_t>& bytes, const std::string& hex) {
  for (std::size_t i = 0; i < kHashBytes; ++i) {
    bytes.push_back(static_cast<std::uint8_t>(std::stoi(hex.substr(2 * i, 2), nullptr, 16)));
  }
}

}  // namespace

std::vector<std::uint8_t> encode_state_header(const Manifest& manifest, const std::string& hash, int batch) {
  std::vector<std::uint8_t> bytes(std::begin(kMagic), std::end(kMagic));
  append(bytes, kVersion);
  append(bytes, std::uint32_t{0});
  append(bytes, std::uint64_t{0});
  append_hash(bytes, hash);
  append(bytes, static_cast<std::uint32_t>(batch));
  append(bytes, static_cast<std::uint32_t>(manifest.states.size()));
  for (const StateTensor& state : manifest.states) {
    append(bytes, static_cast<std::uint32_t>(state.shape.size() - 1));
    for (std::size_t i = 1; i < state.shape.size(); ++i) append(bytes, static_cast<std::uint32_t>(state.shape[i]));
  }
  return bytes;
}

void seal_state(std::vector<std::uint8_t>& bytes) {
  const std::uint64_t size = bytes.size() - kBodyAt;
  std::memcpy(bytes.data() + kSizeAt, &size, sizeof size);
  const std::uint32_t checksum = crc32c(bytes.data() + kSizeAt, bytes.size() - kSizeAt);
  std::memcpy(bytes.data() + kChecksumAt, &checksum, sizeof checksum);
}

Span<const std::uint8_t> decode_state(const Manifest& manifest, const std::string& hash, int batch,
                                      Span<const std::uint8_t> bytes, const std::string& where) {
  const auto refuse = [&where](const std::string& why) { throw Error(ErrorCode::state, where + " " + why); };
  const std::uint8_t* const data = bytes.data();
  if (bytes.size() < kBodyAt || !std::equal(std::begin(kMagic), std::end(kMagic), data)) {
    refuse("is not a saved state: it does not begin like one.");
  }
  if (const auto version = read<std::uint32_t>(data + kVersionAt); version != kVersion) {
    refuse("has format version " + std::to_string(version) + "; this library reads version " +
           std::to_string(kVersion) + ". Load it with the library that saved it.");
  }
  const auto announced = read<std::uint64_t>(data + kSizeAt);
  if (const std::uint64_t present = bytes.size() - kBodyAt; present != announced) {
    refuse((present < announced ? "is truncated: " : "is too long: ") + std::to_string(present) + " bytes of " +
           std::to_string(announced) + " follow its beginning. Copy it again.");
  }
  if (read<std::uint32_t>(data + kChecksumAt) != crc32c(data + kSizeAt, bytes.size() - kSizeAt)) {
    refuse("is damaged: its checksum does not match. Copy it again.");
  }
  // From here on the bytes are what a writer wrote; only a wrong writer fails below.
  std::vector<std::uint8_t> expected = encode_state_header(manifest, hash, batch);
  if (bytes.size() < kBatchAt + 8) refuse("does not hold the states of this model.");
  if (!std::equal(data + kBodyAt, data + kBatchAt, expected.begin() + kBodyAt)) {
    refuse("was saved by another model (its weights or architecture differ). Load it into the model that saved it.");
  }
  if (const auto saved = read<std::uint32_t>(data + kBatchAt); saved != static_cast<std::uint32_t>(batch)) {
    refuse("holds " + std::to_string(saved) + " sequences; this session has a batch of " + std::to_string(batch) + ".");
  }
  const std::size_t payload = manifest.state_row_elements() * static_cast<std::size_t>(batch) * sizeof(float);
  if (bytes.size() != expected.size() + payload ||
      !std::equal(expected.begin() + kBatchAt, expected.end(), data + kBatchAt)) {
    refuse("does not hold the states of this model.");
  }
  return {data + expected.size(), payload};
}

}  // namespace xlstm::internal
