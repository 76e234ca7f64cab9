#include "cuda_sampler.h"

#include <cstring>

#ifdef XLSTM_HAS_CUDA
#include "device_sampler.h"
#endif

namespace xlstm::internal {

bool CudaSampler::available() {
#ifdef XLSTM_HAS_CUDA
  return true;
#else
  return false;
#endif
}

CudaSampler::CudaSampler(const CudaDevice& device, const CudaStream& stream, int batch, std::size_t vocabulary)
    : device_(device),
      stream_(stream),
      batch_(batch),
      vocabulary_(static_cast<int>(vocabulary)),
      uniforms_(device, sizeof(double) * static_cast<std::size_t>(batch)),
      tokens_(device, sizeof(std::int64_t) * static_cast<std::size_t>(batch)),
      weights_(device, sizeof(std::uint64_t) * static_cast<std::size_t>(batch) * vocabulary),
      host_uniforms_(device, uniforms_.bytes()),
      host_tokens_(device, tokens_.bytes()) {}

void CudaSampler::draw(const DeviceBuffer& logits, const Sampling& sampling, const double* uniforms,
                       std::int64_t* tokens) {
#ifdef XLSTM_HAS_CUDA
  std::memcpy(host_uniforms_.data(), uniforms, uniforms_.bytes());
  XLSTM_CUDA(device_, cuMemcpyHtoDAsync_v2, uniforms_.address(), host_uniforms_.data(), uniforms_.bytes(), stream_);
  const cuda::SampleArgs args{static_cast<const float*>(logits.pointer()),
                              static_cast<const double*>(uniforms_.pointer()),
                              static_cast<std::int64_t*>(tokens_.pointer()),
                              static_cast<std::uint64_t*>(weights_.pointer()),
                              batch_,
                              vocabulary_,
                              sampling.temperature,
                              sampling.top_k,
                              sampling.top_p};
  if (const cudaError_t status = cuda::launch_sample(args, stream_); status != cudaSuccess)
    throw Error(ErrorCode::runtime, std::string("the sampling kernel failed: ") + cudaGetErrorString(status));
  XLSTM_CUDA(device_, cuMemcpyDtoHAsync_v2, host_tokens_.data(), tokens_.address(), tokens_.bytes(), stream_);
  stream_.synchronize();
  std::memcpy(tokens, host_tokens_.data(), tokens_.bytes());
#else
  (void)logits, (void)sampling, (void)uniforms, (void)tokens;
#endif
}

}  // namespace xlstm::internal
