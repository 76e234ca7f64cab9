// Memory where a batch computes: on the host, or on a GPU, whose transfers are queued on a stream.
#pragma once

#include <cstddef>
#include <memory>

#include "runtime/cuda_driver.h"

namespace xlstm::internal {

inline constexpr std::size_t kAlignment = 256;  // of buffers: more than the widest vector instructions ask for

inline std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

class Buffer {
 public:
  // Zeros. `stream`: the buffer lies on its device, and what follows is queued on it; null: it lies on the host, and
  // what follows is done on return. The stream outlives the buffer.
  Buffer(const CudaStream* stream, std::size_t bytes);

  std::byte* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }

  // Make room for so many bytes. Where it grows, the old contents are lost, for zeros, and it returns true.
  bool reserve(std::size_t bytes);

  // `bytes` of them, from `offset` on.
  void zero(std::size_t offset, std::size_t bytes);
  void upload(std::size_t offset, const void* host, std::size_t bytes);
  void download(std::size_t offset, void* host, std::size_t bytes) const;
  // All of another buffer of the same size, on the same device; what is queued on its stream is waited for.
  void copy(const Buffer& from);

  void finish() const;  // wait for all that was queued

 private:
  struct Free {
    const CudaStream* stream;
    void operator()(std::byte* data) const;
  };

  const CudaStream* stream_;
  std::size_t bytes_ = 0;
  std::unique_ptr<std::byte, Free> data_;
};

// A buffer that the host fills or reads at every step. On a GPU it has a twin in page-locked memory of the host, made
// when it is first asked for; on the host it is its own twin.
class Port {
 public:
  Port(const CudaStream* stream, std::size_t bytes) : stream_(stream), buffer_(stream, bytes) {}

  bool reserve(std::size_t bytes) { return buffer_.reserve(bytes); }  // as Buffer
  const Buffer& buffer() const { return buffer_; }
  std::byte* data() const { return buffer_.data(); }  // where the batch computes
  std::byte* host();

  // The first `bytes` of them, between the two sides; as in Buffer.
  void upload(std::size_t bytes);
  void download(std::size_t bytes);
  void finish() const { buffer_.finish(); }

 private:
  const CudaStream* stream_;
  Buffer buffer_;
  std::unique_ptr<PinnedBuffer> twin_;
};

}  // namespace xlstm::internal
