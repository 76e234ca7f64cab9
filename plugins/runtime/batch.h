// A batch: sequences that advance together, their states, and what a step and a chunk read and write. What is the same
// on every back end is here; a back end supplies a Runner.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "runtime/buffer.h"
#include "runtime/chunk_buffers.h"
#include "runtime/cuda_sampler.h"
#include "runtime/states.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

// Where a batch computes.
struct Place {
  std::shared_ptr<const CudaStream> stream = nullptr;  // of a GPU, where all its work is queued; null: the host
  std::mutex* turn = nullptr;                          // where only one batch of a model may work at a time
};

struct BatchBuffers {
  BatchBuffers(const Manifest& manifest, int batch, const CudaStream* stream);

  StateBuffers states;
  Port input;   // (batch, input width): int64 tokens or float32 vectors
  Port output;  // (batch, output width) float32
  Buffer ones;  // (batch) int32: the lengths of a step
  ChunkBuffers chunk;
};

// Runs a back end's passes, or queues them on the batch's stream, from the current set of states to the other.
class Runner {
 public:
  virtual ~Runner() = default;
  // From the host's side of `input` to the device's side of `output`.
  virtual void step() = 0;
  // Where the loaded bundle takes chunks: a pass over so many positions of every row, from and to the buffers of
  // `chunk`.
  virtual void prefill(std::size_t positions) = 0;
};

class Batch {
 public:
  // `make` is called with the buffers, in the batch's turn and with its device current. The manifest outlives it.
  using MakeRunner = std::function<std::unique_ptr<Runner>(BatchBuffers&)>;
  Batch(const Manifest& manifest, int batch, Place place, const MakeRunner& make);
  Batch(const Batch&) = delete;
  ~Batch();

  int size() const { return batch_; }

  // Host memory of the next step's input, (batch, input width): int64 tokens or float32 vectors.
  void* input() { return parts_->buffers.input.host(); }
  // Run one step: reads input(), advances the states. The outputs, (batch, output width), are valid until the next.
  const float* step();

  // Where the loaded bundle takes chunks: run one pass over them, and advance the states by each row's valid positions.
  void prefill(const Chunk& chunk);

  // Where it can: a step, then draw a token for each row on the device, where the outputs stay. `uniforms`: (batch),
  // in [0, 1); `tokens`: (batch). Both on the host.
  bool can_sample() const { return place_.stream && CudaSampler::available(); }
  void step_and_sample(const Sampling& sampling, const double* uniforms, std::int64_t* tokens);

  // Zero row `row` of every state, or all for -1.
  void reset(int row);
  // Every state after the other in the manifest's order, (batch, ...) each, float32.
  void read_states(float* host) const;
  void write_states(const float* host);
  // Copy the states of another batch of the same loaded bundle and size.
  void copy_states(const Batch& from);

 private:
  struct Parts {  // what lies on the device, made and unmade in the batch's turn
    Parts(const Manifest& manifest, int batch, const CudaStream* stream) : buffers(manifest, batch, stream) {}
    BatchBuffers buffers;
    std::unique_ptr<Runner> runner;
    std::optional<CudaSampler> sampler;
  };

  // Until what it returns is gone: this batch's turn, with its device current in the calling thread.
  std::unique_lock<std::mutex> enter() const;

  const Manifest& manifest_;
  int batch_;
  Place place_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace xlstm::internal
