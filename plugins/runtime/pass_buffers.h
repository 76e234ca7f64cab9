// What a pass reads and writes: named inputs, lengths, named outputs. Made for the first pass, grown to the largest,
// and used again by all that follow.
#pragma once

#include <vector>

#include "runtime/buffer.h"
#include "runtime/manifest.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

// A pass as its caller has it, on the host.
struct Feed {
  std::size_t positions;        // of every row, at least 1; 1 where no input has any
  const void* const* inputs;    // the manifest's, in its order: dense, of its shapes and dtypes
  const std::int32_t* lengths;  // (batch): valid positions of each row; null: all
};

class PassBuffers {
 public:
  // `stream` as in Buffer. The manifest outlives it.
  PassBuffers(const Manifest& manifest, int batch, const CudaStream* stream);

  // Make room for so many positions.
  void reserve(std::size_t positions);
  // (batch): valid positions of each row; null: all. What has changed is on its way to the device when it returns.
  void set_lengths(const std::int32_t* lengths);
  // Make room and copy what is fed: the inputs to the host's side, lengths as above.
  void fill(const Feed& feed);
  // Queue the transfer of the inputs to the device.
  void upload();

  std::size_t positions() const { return positions_; }
  int version() const { return version_; }  // another: the addresses below have changed
  void* input(std::size_t index) const { return inputs_[index].data(); }
  void* lengths() const { return lengths_.data(); }  // (batch) int32
  void* output(std::size_t index) const { return outputs_[index].data(); }
  std::size_t lengths_bytes() const { return batch_ * sizeof(std::int32_t); }

  // After the pass. Of an output whose shape the run has told: where it lies on the host until the next pass.
  void tell(std::size_t index, const float* data, const std::vector<std::int64_t>& shape);
  // All outputs, on the host. All that was queued is finished on return.
  Outputs fetch();
  // Of a single model: the output of each row's last valid position, to `to[row]` on the host; null: nowhere.
  void fetch_last(const std::int32_t* lengths, float* const* to) const;

 private:
  void reserve_inputs(std::size_t positions);
  void reserve_outputs(std::size_t positions);

  const Manifest& manifest_;
  std::size_t batch_, positions_ = 0;
  int version_ = 0;
  std::vector<Port> inputs_, outputs_;
  Port lengths_;
  std::vector<std::vector<std::int64_t>> shapes_;
  std::vector<Output> results_;
};

}  // namespace xlstm::internal
