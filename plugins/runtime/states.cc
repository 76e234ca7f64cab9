#include "states.h"

#include <cstring>
#include <new>

namespace xlstm::internal {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

unsigned long long address(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

}  // namespace

HostBuffer::HostBuffer(std::size_t bytes)
    : data_(static_cast<std::byte*>(::operator new[](aligned(bytes), std::align_val_t{kAlignment}))) {
  std::memset(data_.get(), 0, aligned(bytes));
}

void HostBuffer::Free::operator()(std::byte* data) const { ::operator delete[](data, std::align_val_t{kAlignment}); }

StateBuffers::StateBuffers(const Manifest& manifest, int batch, const CudaDevice* device, const CudaStream* stream)
    : batch_(static_cast<std::size_t>(batch)), device_(device), stream_(stream) {
  for (const StateTensor& state : manifest.states) {
    const std::size_t row_bytes = state.row_elements() * sizeof(float);
    tensors_.push_back({bytes_, row_bytes});
    bytes_ += aligned(row_bytes * batch_);
  }
  for (std::byte*& base : base_) {
    if (stream_) {
      base = static_cast<std::byte*>(gpu_.emplace_back(*device_, bytes_).pointer());
    } else {
      base = host_.emplace_back(bytes_).data();
    }
  }
  if (stream_) reset(-1);
}

void StateBuffers::reset(int row) {
  const auto zero = [this](std::byte* at, std::size_t bytes) {
    if (stream_)
      XLSTM_CUDA(*device_, cuMemsetD8Async, address(at), static_cast<unsigned char>(0), bytes, *stream_);
    else
      std::memset(at, 0, bytes);
  };
  if (row < 0) return zero(base_[current_], bytes_);
  for (const Tensor& tensor : tensors_)
    zero(base_[current_] + tensor.offset + static_cast<std::size_t>(row) * tensor.row_bytes, tensor.row_bytes);
}

void StateBuffers::read(float* host) const {
  auto* to = reinterpret_cast<std::byte*>(host);
  for (const Tensor& tensor : tensors_) {
    const std::byte* from = base_[current_] + tensor.offset;
    const std::size_t bytes = tensor.row_bytes * batch_;
    if (stream_)
      XLSTM_CUDA(*device_, cuMemcpyDtoHAsync_v2, to, address(from), bytes, *stream_);
    else
      std::memcpy(to, from, bytes);
    to += bytes;
  }
  finish();
}

void StateBuffers::write(const float* host) {
  auto* from = reinterpret_cast<const std::byte*>(host);
  for (const Tensor& tensor : tensors_) {
    std::byte* to = base_[current_] + tensor.offset;
    const std::size_t bytes = tensor.row_bytes * batch_;
    if (stream_)
      XLSTM_CUDA(*device_, cuMemcpyHtoDAsync_v2, address(to), from, bytes, *stream_);
    else
      std::memcpy(to, from, bytes);
    from += bytes;
  }
  finish();
}

void StateBuffers::copy(const StateBuffers& from) {
  std::byte* const to = base_[current_];
  const std::byte* const source = from.base_[from.current_];
  if (!stream_) {
    std::memcpy(to, source, bytes_);
    return;
  }
  from.finish();  // a queued reset
  XLSTM_CUDA(*device_, cuMemcpyDtoDAsync_v2, address(to), address(source), bytes_, *stream_);
  finish();
}

void StateBuffers::finish() const {
  if (stream_) stream_->synchronize();
}

}  // namespace xlstm::internal
