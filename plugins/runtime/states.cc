#include "runtime/states.h"

namespace xlstm::internal {

StateBuffers::StateBuffers(const Manifest& manifest, int batch, const CudaStream* stream)
    : batch_(static_cast<std::size_t>(batch)) {
  std::size_t bytes = 0;
  for (const StateTensor& state : manifest.states) {
    const std::size_t row_bytes = state.row_elements() * sizeof(float);
    tensors_.push_back({bytes, row_bytes});
    bytes += aligned(row_bytes * batch_);
  }
  for (int set = 0; set < 2; ++set) sets_.emplace_back(stream, bytes);
}

void StateBuffers::reset(int row) {
  Buffer& states = sets_[current_];
  if (row < 0) return states.zero(0, states.bytes());
  for (const Tensor& tensor : tensors_) {
    states.zero(tensor.offset + static_cast<std::size_t>(row) * tensor.row_bytes, tensor.row_bytes);
  }
}

void StateBuffers::read(float* host) const {
  auto* to = reinterpret_cast<std::byte*>(host);
  for (std::size_t i = 0; i < size(); to += tensor_bytes(i++)) {
    sets_[current_].download(tensors_[i].offset, to, tensor_bytes(i));
  }
  sets_[current_].finish();
}

void StateBuffers::write(const float* host) {
  auto* from = reinterpret_cast<const std::byte*>(host);
  for (std::size_t i = 0; i < size(); from += tensor_bytes(i++)) {
    sets_[current_].upload(tensors_[i].offset, from, tensor_bytes(i));
  }
  sets_[current_].finish();
}

void StateBuffers::copy(const StateBuffers& from) {
  sets_[current_].copy(from.sets_[from.current_]);
  sets_[current_].finish();
}

}  // namespace xlstm::internal
