// What a back end is to the rest of the runtime. One file implements it for each: onnxruntime_backend.cc,
// tensorrt_backend.cc.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "manifest.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

// The state of one batch, and what one step reads and writes. Host buffers are allocated once, when it is made.
class Stream {
 public:
  virtual ~Stream() = default;

  // Host memory of the next step's input, (batch, input width): int64 tokens or float32 vectors.
  virtual void* input() = 0;
  // Run one step: reads input(), advances the states. The outputs, (batch, output width), are valid until the next.
  virtual const float* step() = 0;

  // Where it can: the same, then draw a token for each row on the device, where the outputs stay. `uniforms`: (batch),
  // in [0, 1); `tokens`: (batch). Both on the host.
  virtual bool can_sample() const = 0;
  virtual void step_and_sample(const Sampling& sampling, const double* uniforms, std::int64_t* tokens) = 0;

  // Zero row `row` of every state, or all for -1.
  virtual void reset(int row) = 0;
  // Every state after the other in the manifest's order, (batch, ...) each, float32.
  virtual void read_states(float* host) const = 0;
  virtual void write_states(const float* host) = 0;
  // Copy the states of another stream of the same engine and batch.
  virtual void copy_states(const Stream& from) = 0;
};

// Loaded weights. Immutable; its streams may run on different threads.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::unique_ptr<Stream> stream(int batch) const = 0;
  virtual std::string device() const = 0;  // `cpu`, `cuda:0`
  virtual bool cuda_graph() const = 0;
};

std::unique_ptr<Engine> load_onnxruntime(const std::filesystem::path& bundle, const Manifest&, const Options&);
std::unique_ptr<Engine> load_tensorrt(const std::filesystem::path& bundle, const Manifest&, const Options&);

}  // namespace xlstm::internal
