#include "runtime/states.h"

namespace xlstm::internal {

StateBuffers::StateBuffers(const Manifest& manifest, int batch, const CudaStream* stream, bool in_place)
    : batch_(static_cast<std::size_t>(batch)), shared_(stream, 0) {
  std::size_t shared = 0, own = 0;
  for (const StateTensor& state : manifest.states) {
    const bool is_shared = in_place && state.in_place;
    std::size_t& bytes = is_shared ? shared : own;
    const std::size_t row_bytes = state.row_elements() * sizeof(float);
    tensors_.push_back({is_shared, bytes, row_bytes});
    bytes += aligned(row_bytes * batch_);
  }
  shared_.reserve(shared);
  for (int set = 0; set < 2; ++set) sets_.emplace_back(stream, own);
}

void StateBuffers::reset(int row) {
  if (row < 0) {
    shared_.zero(0, shared_.bytes());
    return sets_[current_].zero(0, sets_[current_].bytes());
  }
  for (const Tensor& tensor : tensors_) {
    memory(tensor).zero(tensor.offset + static_cast<std::size_t>(row) * tensor.row_bytes, tensor.row_bytes);
  }
}

void StateBuffers::read(float* host) const {
  auto* to = reinterpret_cast<std::byte*>(host);
  for (std::size_t i = 0; i < size(); to += tensor_bytes(i++)) {
    memory(current_, tensors_[i]).download(tensors_[i].offset, to, tensor_bytes(i));
  }
  finish();
}

void StateBuffers::write(const float* host) {
  auto* from = reinterpret_cast<const std::byte*>(host);
  for (std::size_t i = 0; i < size(); from += tensor_bytes(i++)) {
    memory(tensors_[i]).upload(tensors_[i].offset, from, tensor_bytes(i));
  }
  finish();
}

void StateBuffers::copy(const StateBuffers& from) {
  shared_.copy(from.shared_);
  sets_[current_].copy(from.sets_[from.current_]);
  finish();
}

}  // namespace xlstm::internal
