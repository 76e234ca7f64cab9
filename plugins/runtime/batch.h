// A batch: sequences that advance together, their states, and what passes read and write. What is the same on every
// back end is here; a back end supplies a Runner.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "runtime/cuda_sampler.h"
#include "runtime/pass_buffers.h"
#include "runtime/states.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

// Where a batch computes.
struct Place {
  std::shared_ptr<const CudaStream> stream = nullptr;  // of a GPU, where all its work is queued; null: the host
  std::mutex* turn = nullptr;                          // where only one batch of a model may work at a time
  bool in_place = false;                               // kernels run the cells, and update the states that they may
};

struct BatchBuffers {
  BatchBuffers(const Manifest& manifest, int batch, const Place& place);

  StateBuffers states;
  PassBuffers step;  // of one position of every row, which do not move; no memory in mode window
  PassBuffers pass;  // of all others
};

// Runs a back end's passes, or queues them on the batch's stream: from the host's side of the inputs, and the current
// set of states, to the device's side of the outputs, and the other set.
class Runner {
 public:
  virtual ~Runner() = default;
  virtual void step() = 0;  // over `step`
  // All that can be refused of a pass over `pass`, as it is now.
  virtual void prepare() = 0;
  virtual void pass() = 0;
};

class Batch {
 public:
  // `make` is called with the buffers, in the batch's turn and with its device current. The manifest outlives it.
  using MakeRunner = std::function<std::unique_ptr<Runner>(BatchBuffers&)>;
  Batch(const Manifest& manifest, int batch, Place place, const MakeRunner& make);
  Batch(const Batch&) = delete;
  ~Batch();

  int size() const { return batch_; }

  // Run one pass and advance the states by each row's valid positions. What it returns is valid until the next pass.
  Outputs run(const Feed& feed);
  // The same for a single model, of which but the outputs at each row's last valid position are wanted: they are
  // copied to `outputs[row]`; null: nowhere. `feed` has lengths.
  void prefill(const Feed& feed, float* const* outputs);
  // Where it can: a step, then draw a token for each row on the device, where the outputs stay. `uniforms`: (batch),
  // in [0, 1); `tokens`: (batch). Both on the host.
  bool can_sample() const { return place_.stream && CudaSampler::available(); }
  void step_and_sample(const Feed& feed, const Sampling& sampling, const double* uniforms, std::int64_t* tokens);

  // Zero row `row` of every state, or all for -1.
  void reset(int row);
  // Every state after the other in the manifest's order, (batch, ...) each, float32.
  void read_states(float* host) const;
  void write_states(const float* host);
  // Copy the states of another batch of the same loaded bundle and size.
  void copy_states(const Batch& from);

 private:
  struct Parts {  // what lies on the device, made and unmade in the batch's turn
    Parts(const Manifest& manifest, int batch, const Place& place) : buffers(manifest, batch, place) {}
    BatchBuffers buffers;
    std::unique_ptr<Runner> runner;
    std::optional<CudaSampler> sampler;
  };

  // Run or queue the pass, from the current set of states to the other. In its turn.
  PassBuffers& start(const Feed& feed);
  void require_states() const;  // throws Error(runtime) where a pass has spoilt them

  // Until what it returns is gone: this batch's turn, with its device current in the calling thread.
  std::unique_lock<std::mutex> enter() const;

  const Manifest& manifest_;
  int batch_;
  Place place_;
  std::unique_ptr<Parts> parts_;
  bool spoilt_ = false;
};

}  // namespace xlstm::internal
