// The states of a batch, in two sets: by turns a pass's input and its output, so that nothing is copied. What a kernel
// may update in place is in both sets the same memory.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "runtime/buffer.h"
#include "runtime/manifest.h"

namespace xlstm::internal {

class StateBuffers {
 public:
  // Zeros. `stream` as in Buffer; `in_place`: whether the cells' kernels update what they may.
  StateBuffers(const Manifest& manifest, int batch, const CudaStream* stream, bool in_place);

  std::size_t size() const { return tensors_.size(); }
  bool any_in_place() const { return shared_.bytes() > 0; }  // a pass that fails has then spoilt them
  void* tensor(int set, std::size_t index) const {
    return memory(set, tensors_[index]).data() + tensors_[index].offset;
  }
  std::size_t tensor_bytes(std::size_t index) const { return tensors_[index].row_bytes * batch_; }

  int current() const { return current_; }     // the set that holds the states
  void advance() { current_ = 1 - current_; }  // after a step

  // As in Batch. Finished on return, except `reset` on a GPU, which is queued. `write` throws Error(state), and writes
  // nothing, where a value is beyond the range of what a state is stored in.
  void reset(int row);
  void read(float* host) const;
  void write(const float* host);
  void copy(const StateBuffers& from);
  void finish() const { shared_.finish(); }  // wait for all that the batch has queued

 private:
  struct Tensor {
    bool shared;
    std::size_t offset, row_bytes;
    std::string name, dtype;
    std::size_t row_elements;
    bool is_half() const { return dtype != "float32"; }
  };

  const Buffer& memory(int set, const Tensor& tensor) const { return tensor.shared ? shared_ : sets_[set]; }
  Buffer& memory(const Tensor& tensor) { return tensor.shared ? shared_ : sets_[current_]; }

  std::vector<Tensor> tensors_;
  std::size_t batch_;
  Buffer shared_;
  std::vector<Buffer> sets_;
  int current_ = 0;
};

}  // namespace xlstm::internal
