// Sampling where the logits are, so that only token ids leave the GPU. All work is enqueued on `stream`.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace xlstm::cuda {

struct SampleArgs {
  const float* logits;     // (batch, vocabulary)
  const double* uniforms;  // (batch), in [0, 1); unused where temperature is 0
  std::int64_t* tokens;    // (batch), the result; in between, each row's most likely token
  std::uint64_t* weights;  // (batch, vocabulary), scratch; unused where temperature is 0
  int batch, vocabulary;
  double temperature;   // 0: greedy
  std::uint64_t top_k;  // 0: all
  double top_p;         // 1: all
};

// The choice of xlstm::Sampler: one launch where it is greedy, else three. Probabilities are kept in fixed point, as
// multiples of 2^-40 of the greatest, so that sums are exact in any order: a draw can fall differently from the host's
// only within 1e-12 of the border between two tokens.
cudaError_t launch_sample(const SampleArgs& args, cudaStream_t stream);

}  // namespace xlstm::cuda
