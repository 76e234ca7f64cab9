#include "runtime/cuda_sampler.h"

#include <algorithm>

#ifdef XLSTM_HAS_CUDA
#include "runtime/device_sampler.h"
#endif

namespace xlstm::internal {

bool CudaSampler::available() {
#ifdef XLSTM_HAS_CUDA
  return true;
#else
  return false;
#endif
}

CudaSampler::CudaSampler(const CudaStream& stream, int batch, std::size_t vocabulary)
    : stream_(stream),
      batch_(batch),
      vocabulary_(static_cast<int>(vocabulary)),
      uniforms_(&stream, sizeof(double) * static_cast<std::size_t>(batch)),
      tokens_(&stream, sizeof(std::int64_t) * static_cast<std::size_t>(batch)),
      weights_(&stream, sizeof(std::uint64_t) * static_cast<std::size_t>(batch) * vocabulary) {}

void CudaSampler::draw(const void* logits, const Sampling& sampling, const double* uniforms, std::int64_t* tokens) {
#ifdef XLSTM_HAS_CUDA
  std::copy_n(uniforms, batch_, reinterpret_cast<double*>(uniforms_.host()));
  uniforms_.upload(uniforms_.buffer().bytes());
  const cuda::SampleArgs args{static_cast<const float*>(logits),
                              reinterpret_cast<const double*>(uniforms_.data()),
                              reinterpret_cast<std::int64_t*>(tokens_.data()),
                              reinterpret_cast<std::uint64_t*>(weights_.data()),
                              batch_,
                              vocabulary_,
                              sampling.temperature,
                              sampling.top_k,
                              sampling.top_p};
  if (const cudaError_t status = cuda::launch_sample(args, stream_); status != cudaSuccess) {
    throw Error(ErrorCode::runtime, std::string("The sampling kernel failed: ") + cudaGetErrorString(status) + ".");
  }
  tokens_.download(tokens_.buffer().bytes());
  tokens_.finish();
  std::copy_n(reinterpret_cast<const std::int64_t*>(tokens_.host()), batch_, tokens);
#else
  (void)logits, (void)sampling, (void)uniforms, (void)tokens;
#endif
}

}  // namespace xlstm::internal
