// Draws tokens on the GPU that holds the logits. Compiled in with XLSTM_CUDA; without, `available` is false and
// sampling falls to the host.
#pragma once

#include "runtime/buffer.h"
#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

class CudaSampler {
 public:
  static bool available();

  CudaSampler(const CudaStream& stream, int batch, std::size_t vocabulary);

  // Queue the draw of a token for each row of `logits`, (batch, vocabulary) float32 on the device, and its transfer;
  // wait for it.
  void draw(const void* logits, const Sampling& sampling, const double* uniforms, std::int64_t* tokens);

 private:
  const CudaStream& stream_;
  int batch_, vocabulary_;
  Port uniforms_, tokens_;
  Buffer weights_;
};

}  // namespace xlstm::internal
