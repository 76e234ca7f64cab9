// A saved state: the reader and writer of FORMAT.md (xlstm_export/bundle/FORMAT.md), which gives the bytes and the
// order of the refusals.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/manifest.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

// `hash` is hexadecimal.
std::vector<std::uint8_t> encode_state_header(const Manifest& manifest, const std::string& hash, int batch);
// Writes size and checksum into the header of all the bytes.
void seal_state(std::vector<std::uint8_t>& bytes);

// The bytes of a saved state. `fill` is called with where the states go, in the manifest's order, (batch, ...) each.
template <class Fill>
std::vector<std::uint8_t> encode_state(const Manifest& manifest, const std::string& hash, int batch, Fill&& fill) {
  std::vector<std::uint8_t> bytes = encode_state_header(manifest, hash, batch);
  const std::size_t header = bytes.size();  // a multiple of 4, so the states are aligned
  bytes.resize(header + manifest.state_row_elements() * static_cast<std::size_t>(batch) * sizeof(float));
  fill(reinterpret_cast<float*>(bytes.data() + header));
  seal_state(bytes);
  return bytes;
}

// Where the states are, inside `bytes`. `where` names the file in messages. Throws Error(state).
Span<const std::uint8_t> decode_state(const Manifest& manifest, const std::string& hash, int batch,
                                      Span<const std::uint8_t> bytes, const std::string& where);

}  // namespace xlstm::internal
