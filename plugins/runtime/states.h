// The two sets of states of a batch: by turns a step's input and its output, so that nothing is copied.
#pragma once

#include <cstddef>
#include <vector>

#include "runtime/buffer.h"
#include "runtime/manifest.h"

namespace xlstm::internal {

class StateBuffers {
 public:
  // Zeros. `stream` as in Buffer.
  StateBuffers(const Manifest& manifest, int batch, const CudaStream* stream);

  std::size_t size() const { return tensors_.size(); }
  void* tensor(int set, std::size_t index) const { return sets_[set].data() + tensors_[index].offset; }
  std::size_t tensor_bytes(std::size_t index) const { return tensors_[index].row_bytes * batch_; }

  int current() const { return current_; }     // the set that holds the states
  void advance() { current_ = 1 - current_; }  // after a step

  // As in Batch. Finished on return, except `reset` on a GPU, which is queued.
  void reset(int row);
  void read(float* host) const;
  void write(const float* host);
  void copy(const StateBuffers& from);

 private:
  struct Tensor {
    std::size_t offset, row_bytes;
  };

  std::vector<Tensor> tensors_;
  std::size_t batch_;
  std::vector<Buffer> sets_;
  int current_ = 0;
};

}  // namespace xlstm::internal
