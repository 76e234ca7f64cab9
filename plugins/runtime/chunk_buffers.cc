#include "chunk_buffers.h"

#include <cstring>

namespace xlstm::internal {

ChunkBuffers::ChunkBuffers(const Manifest& manifest, int batch, const CudaDevice* device, const CudaStream* stream)
    : manifest_(manifest), batch_(static_cast<std::size_t>(batch)), device_(device), stream_(stream) {}

std::size_t ChunkBuffers::input_bytes(std::size_t positions) const {
  return batch_ * positions * manifest_.input.row_bytes();
}

std::size_t ChunkBuffers::output_bytes(std::size_t positions) const {
  return batch_ * (manifest_.output.any_positions() ? positions : 1) * manifest_.output.row_bytes();
}

void ChunkBuffers::load(const Chunk& chunk) {
  reserve(output_, output_bytes(chunk.positions));
  upload(input_, chunk.input, input_bytes(chunk.positions));
  upload(lengths_, chunk.lengths, lengths_bytes());
}

void ChunkBuffers::fetch(const Chunk& chunk) const {
  const std::size_t bytes = manifest_.output.row_bytes();
  const bool all = manifest_.output.any_positions();
  for (std::size_t row = 0; row < batch_; ++row) {
    if (!chunk.outputs[row]) continue;
    const std::size_t last = static_cast<std::size_t>(chunk.lengths[row]) - 1;
    const std::size_t offset = (all ? row * chunk.positions + last : row) * bytes;
    if (stream_)
      XLSTM_CUDA(*device_, cuMemcpyDtoHAsync_v2, chunk.outputs[row], output_.gpu->address() + offset, bytes, *stream_);
    else
      std::memcpy(chunk.outputs[row], output_.host->data() + offset, bytes);
  }
  if (stream_) stream_->synchronize();
}

void ChunkBuffers::reserve(Memory& memory, std::size_t bytes) const {
  if (bytes <= memory.bytes) return;
  memory.host.reset();  // the old one first: both need not fit
  memory.gpu.reset();
  memory.bytes = 0;
  if (stream_)
    memory.gpu.emplace(*device_, bytes);
  else
    memory.host.emplace(bytes);
  memory.bytes = bytes;
}

void ChunkBuffers::upload(Memory& memory, const void* from, std::size_t bytes) const {
  reserve(memory, bytes);
  if (stream_)
    XLSTM_CUDA(*device_, cuMemcpyHtoDAsync_v2, memory.gpu->address(), from, bytes, *stream_);
  else
    std::memcpy(memory.data(), from, bytes);
}

}  // namespace xlstm::internal
