// What a prefill pass reads and writes, on the host or on a GPU. The buffers are made for the first chunk, grow to the
// largest, and serve all that follow.
#pragma once

#include <optional>

#include "backend.h"
#include "cuda_driver.h"
#include "states.h"

namespace xlstm::internal {

class ChunkBuffers {
 public:
  // `device` and `stream` as in StateBuffers. They and the manifest outlive it.
  ChunkBuffers(const Manifest& manifest, int batch, const CudaDevice* device, const CudaStream* stream);

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
  struct Memory {
    std::size_t bytes = 0;
    std::optional<HostBuffer> host;
    std::optional<DeviceBuffer> gpu;
    void* data() const { return gpu ? gpu->pointer() : host->data(); }
  };
  void reserve(Memory& memory, std::size_t bytes) const;
  void upload(Memory& memory, const void* from, std::size_t bytes) const;

  const Manifest& manifest_;
  std::size_t batch_;
  const CudaDevice* device_;
  const CudaStream* stream_;
  Memory input_, lengths_, output_;
};

}  // namespace xlstm::internal
