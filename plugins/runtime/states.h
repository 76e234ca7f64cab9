// The two sets of state buffers of a stream, on the host or on a GPU: by turns a step's input and its output, so that
// nothing is copied.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "cuda_driver.h"
#include "manifest.h"

namespace xlstm::internal {

// Memory aligned for the widest vector instructions, zeroed.
class HostBuffer {
 public:
  explicit HostBuffer(std::size_t bytes);
  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
};

class StateBuffers {
 public:
  // Zeros. `stream`: where device work is queued; null: the states lie on the host.
  StateBuffers(const Manifest& manifest, int batch, const CudaDevice* device, const CudaStream* stream);

  std::size_t size() const { return tensors_.size(); }
  void* tensor(int set, std::size_t index) const { return base_[set] + tensors_[index].offset; }
  std::size_t tensor_bytes(std::size_t index) const { return tensors_[index].row_bytes * batch_; }

  int current() const { return current_; }     // the set that holds the states
  void advance() { current_ = 1 - current_; }  // after a step

  // As in Stream. Finished on return, except `reset` on a GPU, which is queued.
  void reset(int row);
  void read(float* host) const;
  void write(const float* host);
  void copy(const StateBuffers& from);

 private:
  struct Tensor {
    std::size_t offset, row_bytes;
  };
  void finish() const;

  std::vector<Tensor> tensors_;
  std::size_t batch_, bytes_ = 0;
  const CudaDevice* device_;
  const CudaStream* stream_;
  std::vector<HostBuffer> host_;
  std::vector<DeviceBuffer> gpu_;
  std::byte* base_[2];
  int current_ = 0;
};

}  // namespace xlstm::internal
