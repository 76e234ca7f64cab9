#include "runtime/states.h"

#include "runtime/half_precision.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

StateBuffers::StateBuffers(const Manifest& manifest, int batch, const CudaStream* stream, bool in_place)
    : batch_(static_cast<std::size_t>(batch)), shared_(stream, 0) {
  std::size_t shared = 0, own = 0;
  for (const StateTensor& state : manifest.states) {
    const bool is_shared = in_place && state.in_place;
    std::size_t& bytes = is_shared ? shared : own;
    const std::size_t row_elements = state.row_elements(), row_bytes = row_elements * state.element_bytes();
    tensors_.push_back({is_shared, bytes, row_bytes, state.input, state.dtype, row_elements});
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
  std::vector<std::vector<std::uint16_t>> halves(size());
  float* to = host;
  for (std::size_t i = 0; i < size(); to += tensors_[i++].row_elements * batch_) {
    const Tensor& tensor = tensors_[i];
    if (tensor.is_half()) halves[i].resize(tensor.row_elements * batch_);
    void* const raw = tensor.is_half() ? static_cast<void*>(halves[i].data()) : to;
    memory(current_, tensor).download(tensor.offset, raw, tensor_bytes(i));
  }
  finish();
  to = host;
  for (std::size_t i = 0; i < size(); to += tensors_[i++].row_elements * batch_) {
    if (tensors_[i].is_half()) widen(tensors_[i].dtype, halves[i].data(), halves[i].size(), to);
  }
}

void StateBuffers::write(const float* host) {
  std::vector<std::vector<std::uint16_t>> halves(size());
  const float* from = host;
  for (std::size_t i = 0; i < size(); from += tensors_[i++].row_elements * batch_) {
    const Tensor& tensor = tensors_[i];
    if (!tensor.is_half()) continue;
    halves[i].resize(tensor.row_elements * batch_);
    if (narrow(tensor.dtype, from, halves[i].size(), halves[i].data())) continue;
    throw Error(ErrorCode::state, "State " + tensor.name + " has values beyond the range of " + tensor.dtype +
                                      ", in which this bundle stores it. Use a bundle with --state-dtype bfloat16 or "
                                      "float32.");
  }
  from = host;
  for (std::size_t i = 0; i < size(); from += tensors_[i++].row_elements * batch_) {
    const void* const raw = tensors_[i].is_half() ? static_cast<const void*>(halves[i].data()) : from;
    memory(tensors_[i]).upload(tensors_[i].offset, raw, tensor_bytes(i));
  }
  finish();
}

void StateBuffers::copy(const StateBuffers& from) {
  shared_.copy(from.shared_);
  sets_[current_].copy(from.sets_[from.current_]);
  finish();
}

}  // namespace xlstm::internal
