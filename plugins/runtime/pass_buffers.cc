#include "runtime/pass_buffers.h"

#include <cstring>

namespace xlstm::internal {

PassBuffers::PassBuffers(const Manifest& manifest, int batch, const CudaStream* stream)
    : manifest_(manifest),
      batch_(static_cast<std::size_t>(batch)),
      lengths_(stream, manifest.lengths.empty() ? 0 : lengths_bytes()),
      shapes_(manifest.outputs.size()) {
  for (std::size_t i = 0; i < manifest.inputs.size(); ++i) inputs_.emplace_back(stream, 0);
  for (const TensorSpec& output : manifest.outputs) {
    outputs_.emplace_back(stream, 0);
    results_.push_back({output.name, nullptr, {}});
  }
}

void PassBuffers::reserve(std::size_t positions) {
  reserve_inputs(positions);
  reserve_outputs(positions);
}

void PassBuffers::reserve_inputs(std::size_t positions) {
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (inputs_[i].reserve(manifest_.inputs[i].bytes(batch_, positions))) ++version_;
  }
}

void PassBuffers::reserve_outputs(std::size_t positions) {
  if (positions == positions_) return;
  positions_ = 0;
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    const TensorSpec& spec = manifest_.outputs[i];
    if (!spec.is_known()) continue;
    if (outputs_[i].reserve(spec.bytes(batch_, positions))) ++version_;
    shapes_[i] = spec.sized(static_cast<int>(batch_), positions);
    results_[i].shape = shapes_[i];
  }
  positions_ = positions;
}

void PassBuffers::set_lengths(const std::int32_t* lengths) {
  if (manifest_.lengths.empty()) return;
  auto* const host = reinterpret_cast<std::int32_t*>(lengths_.host());
  bool changed = false;
  for (std::size_t row = 0; row < batch_; ++row) {
    const std::int32_t length = lengths ? lengths[row] : static_cast<std::int32_t>(positions_);
    changed |= host[row] != length;
    host[row] = length;
  }
  if (changed) lengths_.upload(lengths_bytes());
}

void PassBuffers::fill(const Feed& feed) {
  reserve_inputs(feed.positions);
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    std::memcpy(inputs_[i].host(), feed.inputs[i], manifest_.inputs[i].bytes(batch_, feed.positions));
  }
  reserve_outputs(feed.positions);  // after the inputs, which may be the last pass's outputs
  set_lengths(feed.lengths);
}

void PassBuffers::upload() {
  for (std::size_t i = 0; i < inputs_.size(); ++i) inputs_[i].upload(manifest_.inputs[i].bytes(batch_, positions_));
}

void PassBuffers::tell(std::size_t index, const float* data, const std::vector<std::int64_t>& shape) {
  shapes_[index] = shape;
  results_[index].data = data;
  results_[index].shape = shapes_[index];
}

Outputs PassBuffers::fetch() {
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    const TensorSpec& spec = manifest_.outputs[i];
    if (!spec.is_known()) continue;
    outputs_[i].download(spec.bytes(batch_, positions_));
    results_[i].data = reinterpret_cast<const float*>(outputs_[i].host());
  }
  lengths_.finish();  // the stream is one for all
  return Outputs(results_);
}

void PassBuffers::fetch_last(const std::int32_t* lengths, float* const* to) const {
  const std::size_t bytes = manifest_.output().row_bytes();
  const bool all = manifest_.output().time_axis() >= 0;
  for (std::size_t row = 0; row < batch_; ++row) {
    if (!to[row]) continue;
    const std::size_t last = static_cast<std::size_t>(lengths[row]) - 1;
    outputs_[0].buffer().download((all ? row * positions_ + last : row) * bytes, to[row], bytes);
  }
  lengths_.finish();
}

}  // namespace xlstm::internal
