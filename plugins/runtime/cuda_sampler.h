// Draws tokens on the GPU that holds the logits. Compiled in with XLSTM_CUDA; without, `available` is false and
// sampling falls to the host.
#pragma once

#include "cuda_driver.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

class CudaSampler {
 public:
  static bool available();

  CudaSampler(const CudaDevice& device, const CudaStream& stream, int batch, std::size_t vocabulary);

  // Queue the draw of a token for each row of `logits`, (batch, vocabulary) on the device, and its transfer; wait for
  // it.
  void draw(const DeviceBuffer& logits, const Sampling& sampling, const double* uniforms, std::int64_t* tokens);

 private:
  const CudaDevice& device_;
  const CudaStream& stream_;
  int batch_, vocabulary_;
  DeviceBuffer uniforms_, tokens_, weights_;
  PinnedBuffer host_uniforms_, host_tokens_;
};

}  // namespace xlstm::internal
