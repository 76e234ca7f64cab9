// What a pass over a chunk reads and writes. The buffers are made for the first chunk, grow to the largest, and serve
// all that follow.
#pragma once

#include "runtime/buffer.h"
#include "runtime/manifest.h"

namespace xlstm::internal {

// A part of each row's prompt, which one pass takes in. On the host.
struct Chunk {
  std::size_t positions;        // of the longest row, at least 1
  const void* input;            // (batch, positions, input width): int64 tokens or float32 vectors, zeros as padding
  const std::int32_t* lengths;  // (batch): valid positions of each row
  float* const* outputs;        // (batch): where to put the output of a row's last valid position; null: nowhere
};

class ChunkBuffers {
 public:
  // `stream` as in Buffer. The manifest outlives it.
  ChunkBuffers(const Manifest& manifest, int batch, const CudaStream* stream);

  // Make room for a chunk and queue the transfer of its input and lengths.
  void load(const Chunk& chunk);
  // After its pass: copy the outputs that it wants to the host. All that was queued is finished on return.
  void fetch(const Chunk& chunk) const;

  void* input() const { return input_.data(); }      // (batch, positions, width)
  void* lengths() const { return lengths_.data(); }  // (batch) int32
  void* output() const { return output_.data(); }    // (batch, 1 or positions, width)

  std::size_t input_bytes(std::size_t positions) const;
  std::size_t lengths_bytes() const { return batch_ * sizeof(std::int32_t); }
  std::size_t output_bytes(std::size_t positions) const;

 private:
  const Manifest& manifest_;
  std::size_t batch_;
  Buffer input_, lengths_, output_;
};

}  // namespace xlstm::internal
