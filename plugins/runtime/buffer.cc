#include "runtime/buffer.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>

#include "xlstm/xlstm.hpp"

namespace xlstm::internal {
namespace {

unsigned long long address(const std::byte* data) { return reinterpret_cast<std::uintptr_t>(data); }

std::byte* allocate(const CudaStream* stream, std::size_t bytes) {
  if (!stream) {
    void* const memory = ::operator new(aligned(bytes), std::align_val_t{kAlignment}, std::nothrow);
    if (!memory) throw Error(ErrorCode::runtime, "There is no memory for another " + std::to_string(bytes) + " bytes.");
    return static_cast<std::byte*>(memory);
  }
  unsigned long long result = 0;
  XLSTM_CUDA(stream->device(), cuMemAlloc_v2, &result, std::max<std::size_t>(bytes, 1));
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the driver's addresses are numbers
  return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(result));
}

}  // namespace

void Buffer::Free::operator()(std::byte* data) const {
  if (stream) {
    stream->device().cuMemFree_v2(address(data));
  } else {
    ::operator delete(data, std::align_val_t{kAlignment});
  }
}

Buffer::Buffer(const CudaStream* stream, std::size_t bytes) : stream_(stream), data_(nullptr, Free{stream}) {
  reserve(bytes);
}

bool Buffer::reserve(std::size_t bytes) {
  if (data_ && bytes <= bytes_) return false;
  data_.reset();  // before the new one is made: there need not be room for both
  bytes_ = 0;
  data_.reset(allocate(stream_, bytes));
  bytes_ = bytes;
  zero(0, bytes);
  return true;
}

void Buffer::zero(std::size_t offset, std::size_t bytes) {
  if (bytes == 0) return;
  std::byte* const to = data() + offset;
  if (stream_) {
    XLSTM_CUDA(stream_->device(), cuMemsetD8Async, address(to), static_cast<unsigned char>(0), bytes, *stream_);
  } else {
    std::memset(to, 0, bytes);
  }
}

void Buffer::upload(std::size_t offset, const void* host, std::size_t bytes) {
  std::byte* const to = data() + offset;
  if (stream_) {
    XLSTM_CUDA(stream_->device(), cuMemcpyHtoDAsync_v2, address(to), host, bytes, *stream_);
  } else {
    std::memcpy(to, host, bytes);
  }
}

void Buffer::download(std::size_t offset, void* host, std::size_t bytes) const {
  const std::byte* const from = data() + offset;
  if (stream_) {
    XLSTM_CUDA(stream_->device(), cuMemcpyDtoHAsync_v2, host, address(from), bytes, *stream_);
  } else {
    std::memcpy(host, from, bytes);
  }
}

void Buffer::copy(const Buffer& from) {
  if (bytes_ == 0) return;
  from.finish();
  if (stream_) {
    XLSTM_CUDA(stream_->device(), cuMemcpyDtoDAsync_v2, address(data()), address(from.data()), bytes_, *stream_);
  } else {
    std::memcpy(data(), from.data(), bytes_);
  }
}

void Buffer::finish() const {
  if (stream_) stream_->synchronize();
}

std::byte* Port::host() {
  if (!stream_) return buffer_.data();
  if (!twin_ || twin_->bytes() < buffer_.bytes()) {
    twin_.reset();
    twin_ = std::make_unique<PinnedBuffer>(stream_->device(), buffer_.bytes());
  }
  return static_cast<std::byte*>(twin_->data());
}

void Port::upload(std::size_t bytes) {
  if (stream_) buffer_.upload(0, host(), bytes);
}

void Port::download(std::size_t bytes) {
  if (stream_) buffer_.download(0, host(), bytes);
}

}  // namespace xlstm::internal
