#include "runtime/batch.h"

#include <vector>

namespace xlstm::internal {

BatchBuffers::BatchBuffers(const Manifest& manifest, int batch, const CudaStream* stream)
    : states(manifest, batch, stream),
      input(stream, static_cast<std::size_t>(batch) * manifest.input.row_bytes()),
      output(stream, static_cast<std::size_t>(batch) * manifest.output.row_bytes()),
      ones(stream, static_cast<std::size_t>(batch) * sizeof(std::int32_t)),
      chunk(manifest, batch, stream) {
  const std::vector<std::int32_t> values(static_cast<std::size_t>(batch), 1);
  ones.upload(0, values.data(), ones.bytes());
  ones.finish();
}

Batch::Batch(const Manifest& manifest, int batch, Place place, const MakeRunner& make)
    : manifest_(manifest), batch_(batch), place_(std::move(place)) {
  const auto turn = enter();
  auto parts = std::make_unique<Parts>(manifest, batch, place_.stream.get());
  parts->runner = make(parts->buffers);
  parts_ = std::move(parts);
}

Batch::~Batch() {
  std::unique_lock<std::mutex> turn;
  try {
    turn = enter();
    parts_->buffers.output.finish();
  } catch (const Error&) {  // a lost device: there is nothing to wait for
  }
  parts_.reset();
  place_.stream.reset();
}

const float* Batch::step() {
  const auto turn = enter();
  const Port& output = parts_->buffers.output;
  parts_->runner->step();
  output.download();
  output.finish();
  parts_->buffers.states.advance();
  return static_cast<const float*>(output.host());
}

void Batch::prefill(const Chunk& chunk) {
  const auto turn = enter();
  parts_->buffers.chunk.load(chunk);
  parts_->runner->prefill(chunk.positions);
  parts_->buffers.chunk.fetch(chunk);
  parts_->buffers.states.advance();
}

void Batch::step_and_sample(const Sampling& sampling, const double* uniforms, std::int64_t* tokens) {
  const auto turn = enter();
  if (!parts_->sampler) parts_->sampler.emplace(*place_.stream, batch_, manifest_.vocab_size);
  parts_->runner->step();
  parts_->sampler->draw(parts_->buffers.output.data(), sampling, uniforms, tokens);
  parts_->buffers.states.advance();
}

void Batch::reset(int row) {
  const auto turn = enter();
  parts_->buffers.states.reset(row);
}

void Batch::read_states(float* host) const {
  const auto turn = enter();
  parts_->buffers.states.read(host);
}

void Batch::write_states(const float* host) {
  const auto turn = enter();
  parts_->buffers.states.write(host);
}

void Batch::copy_states(const Batch& from) {
  const auto turn = enter();
  parts_->buffers.states.copy(from.parts_->buffers.states);
}

std::unique_lock<std::mutex> Batch::enter() const {
  std::unique_lock<std::mutex> turn;
  if (place_.turn) turn = std::unique_lock(*place_.turn);
  if (place_.stream) place_.stream->device().make_current();
  return turn;
}

}  // namespace xlstm::internal
