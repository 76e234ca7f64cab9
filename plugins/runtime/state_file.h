// The byte format of a saved state, version 1. All numbers are little-endian.
//
//   offset  bytes  what
//   0       8      magic: 89 'X' 'L' 'S' 'T' 'M' 0D 0A   (like PNG's: text-mode transfers damage it visibly)
//   8       4      u32  format version: 1
//   12      4      u32  CRC-32C of everything after these 16 bytes
//   16      8      u64  bytes after these 24: the file's size is 24 + this
//   24      32     model hash (SHA-256), Model::hash(): architecture and weights, whatever the dtype or back end
//   56      4      u32  batch B, at least 1
//   60      4      u32  number N of state tensors
//   64      ...    N shapes, without the batch: u32 rank, then rank times u32
//   ...     ...    payload: tensor after tensor in the manifest's order, each (B, shape...) dense float32
//
// A reader refuses, each with its own message, and in this order:
//   1. fewer than 24 bytes, or another magic             not a state file
//   2. another version                                   of another version
//   3. a size that is not the announced one              truncated, or with bytes appended
//   4. another checksum                                  damaged
//   5. another model hash                                of another model
//   6. another batch                                     of another batch
//   7. shapes or payload that are not the model's        not this model's states (a writer's fault)
// Nothing is written into a session before all of it has passed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/manifest.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

// `hash` is hexadecimal. `fill` is called with where the payload goes.
template <class Fill>
std::vector<std::uint8_t> encode_state(const Manifest& manifest, const std::string& hash, int batch, Fill&& fill);

// The payload, inside `bytes`. `where` names the file in messages. Throws Error(state).
Span<const std::uint8_t> decode_state(const Manifest& manifest, const std::string& hash, int batch,
                                      Span<const std::uint8_t> bytes, const std::string& where);

std::vector<std::uint8_t> encode_state_header(const Manifest&, const std::string& hash, int batch);
void seal_state(std::vector<std::uint8_t>& bytes);

template <class Fill>
std::vector<std::uint8_t> encode_state(const Manifest& manifest, const std::string& hash, int batch, Fill&& fill) {
  std::vector<std::uint8_t> bytes = encode_state_header(manifest, hash, batch);
  const std::size_t header = bytes.size();  // a multiple of 4, so the payload is aligned
  bytes.resize(header + manifest.state_row_elements() * static_cast<std::size_t>(batch) * sizeof(float));
  fill(reinterpret_cast<float*>(bytes.data() + header));
  seal_state(bytes);
  return bytes;
}

}  // namespace xlstm::internal
