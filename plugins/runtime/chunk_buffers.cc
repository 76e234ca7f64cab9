#include "runtime/chunk_buffers.h"

namespace xlstm::internal {

ChunkBuffers::ChunkBuffers(const Manifest& manifest, int batch, const CudaStream* stream)
    : manifest_(manifest),
      batch_(static_cast<std::size_t>(batch)),
      input_(stream, 0),
      lengths_(stream, lengths_bytes()),
      output_(stream, 0) {}

std::size_t ChunkBuffers::input_bytes(std::size_t positions) const {
  return batch_ * positions * manifest_.input.row_bytes();
}

std::size_t ChunkBuffers::output_bytes(std::size_t positions) const {
  return batch_ * (manifest_.output.any_positions() ? positions : 1) * manifest_.output.row_bytes();
}

void ChunkBuffers::load(const Chunk& chunk) {
  output_.reserve(output_bytes(chunk.positions));
  input_.reserve(input_bytes(chunk.positions));
  input_.upload(0, chunk.input, input_bytes(chunk.positions));
  lengths_.upload(0, chunk.lengths, lengths_bytes());
}

void ChunkBuffers::fetch(const Chunk& chunk) const {
  const std::size_t bytes = manifest_.output.row_bytes();
  const bool all = manifest_.output.any_positions();
  for (std::size_t row = 0; row < batch_; ++row) {
    if (!chunk.outputs[row]) continue;
    const std::size_t last = static_cast<std::size_t>(chunk.lengths[row]) - 1;
    output_.download((all ? row * chunk.positions + last : row) * bytes, chunk.outputs[row], bytes);
  }
  output_.finish();
}

}  // namespace xlstm::internal
