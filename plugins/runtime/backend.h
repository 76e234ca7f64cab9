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

// The most positions of a prompt that a pass takes in, where nothing says otherwise.
inline constexpr int kDefaultChunk = 256;

// A part of each row's prompt, which one pass takes in. On the host.
struct Chunk {
  std::size_t positions;        // of the longest row, at least 1
  const void* input;            // (batch, positions, input width): int64 tokens or float32 vectors, zeros as padding
  const std::int32_t* lengths;  // (batch): valid positions of each row
  float* const* outputs;        // (batch): where to put the output of a row's last valid position; null: nowhere
};

// The state of one batch, and what a pass reads and writes. The host buffers of a step are made with it.
class Stream {
 public:
  virtual ~Stream() = default;

  // Host memory of the next step's input, (batch, input width): int64 tokens or float32 vectors.
  virtual void* input() = 0;
  // Run one step: reads input(), advances the states. The outputs, (batch, output width), are valid until the next.
  virtual const float* step() = 0;

  // Where the engine has chunks: run one pass over them, and advance the states by each row's valid positions.
  virtual void prefill(const Chunk& chunk) = 0;

  // Where it can: a step, then draw a token for each row on the device, where the outputs stay. `uniforms`: (batch),
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
  virtual int max_chunk() const = 0;  // most positions of a pass; 0: it runs steps alone
};

std::unique_ptr<Engine> load_onnxruntime(const std::filesystem::path& bundle, const Manifest&, const Options&);
std::unique_ptr<Engine> load_tensorrt(const std::filesystem::path& bundle, const Manifest&, const Options&);

}  // namespace xlstm::internal
