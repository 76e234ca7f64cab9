#include "runtime/batch.h"

#include <utility>

namespace xlstm::internal {

BatchBuffers::BatchBuffers(const Manifest& manifest, int batch, const Place& place)
    : states(manifest, batch, place.stream.get(), place.in_place),
      step(manifest, batch, place.stream.get()),
      pass(manifest, batch, place.stream.get()) {
  if (manifest.is_window()) return;
  step.reserve(1);
  step.set_lengths(nullptr);
}

Batch::Batch(const Manifest& manifest, int batch, Place place, const MakeRunner& make)
    : manifest_(manifest), batch_(batch), place_(std::move(place)) {
  const auto turn = enter();
  auto parts = std::make_unique<Parts>(manifest, batch, place_);
  parts->runner = make(parts->buffers);
  parts_ = std::move(parts);
}

Batch::~Batch() {
  std::unique_lock<std::mutex> turn;
  try {
    turn = enter();
    parts_->buffers.states.finish();
  } catch (const Error&) {  // a lost device: there is nothing to wait for
  }
  parts_.reset();
  place_.stream.reset();
}

PassBuffers& Batch::start(const Feed& feed) {
  require_states();
  BatchBuffers& buffers = parts_->buffers;
  const bool step = feed.positions == 1 && !manifest_.is_window();
  PassBuffers& pass = step ? buffers.step : buffers.pass;
  pass.fill(feed);
  if (!step) parts_->runner->prepare();
  spoilt_ = buffers.states.any_in_place();  // unless it goes well
  step ? parts_->runner->step() : parts_->runner->pass();
  spoilt_ = false;
  return pass;
}

Outputs Batch::run(const Feed& feed) {
  const auto turn = enter();
  const Outputs outputs = start(feed).fetch();
  parts_->buffers.states.advance();
  return outputs;
}

void Batch::prefill(const Feed& feed, float* const* outputs) {
  const auto turn = enter();
  start(feed).fetch_last(feed.lengths, outputs);
  parts_->buffers.states.advance();
}

void Batch::step_and_sample(const Feed& feed, const Sampling& sampling, const double* uniforms, std::int64_t* tokens) {
  const auto turn = enter();
  if (!parts_->sampler) parts_->sampler.emplace(*place_.stream, batch_, manifest_.vocab_size);
  parts_->sampler->draw(start(feed).output(0), sampling, uniforms, tokens);
  parts_->buffers.states.advance();
}

void Batch::reset(int row) {
  const auto turn = enter();
  parts_->buffers.states.reset(row);
  if (row < 0) spoilt_ = false;
}

void Batch::read_states(float* host) const {
  const auto turn = enter();
  require_states();
  parts_->buffers.states.read(host);
}

void Batch::write_states(const float* host) {
  const auto turn = enter();
  parts_->buffers.states.write(host);
  spoilt_ = false;
}

void Batch::copy_states(const Batch& from) {
  const auto turn = enter();
  from.require_states();
  parts_->buffers.states.copy(from.parts_->buffers.states);
}

void Batch::require_states() const {
  if (!spoilt_) return;
  throw Error(ErrorCode::runtime,
              "The states are lost: a pass failed while it updated them in place. Reset the session, or load a saved "
              "state.");
}

std::unique_lock<std::mutex> Batch::enter() const {
  std::unique_lock<std::mutex> turn;
  if (place_.turn) turn = std::unique_lock(*place_.turn);
  if (place_.stream) place_.stream->device().make_current();
  return turn;
}

}  // namespace xlstm::internal
