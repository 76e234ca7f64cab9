// Tokens in the order of a sort by descending logit have distinct 64-bit keys. Whatever the sampler asks for is the
// greatest key with enough tokens, or enough probability, at or above it; a radix search finds it, eight bits a pass,
// without sorting.
#include <cuda_runtime.h>

#include "runtime/device_sampler.h"

namespace xlstm::cuda {
namespace {

constexpr int kThreads = 256, kBins = 256, kPasses = 8;
constexpr double kOne = 1099511627776.0;  // 2^40
using Count = unsigned long long;

// Rises with the logit; among equal logits the lower token has the greater key. A NaN is the greatest.
__device__ __forceinline__ Count key_of(float logit, int token) {
  union {
    float value;
    unsigned bits;
  } word = {logit + 0.0f};  // -0 becomes +0
  unsigned rank = word.bits & 0x80000000u ? ~word.bits : word.bits | 0x80000000u;
  if (logit != logit) rank = 0xffffffffu;
  return static_cast<Count>(rank) << 32 | (0xffffffffu - static_cast<unsigned>(token));
}

__device__ __forceinline__ bool is_finite(double x) { return x - x == 0; }

__device__ __forceinline__ int token_of(Count key) {
  return static_cast<int>(0xffffffffu - static_cast<unsigned>(key & 0xffffffffu));
}

// The greatest key whose tokens at or above it weigh at least `wanted` (1 or more, and no more than all); what they
// weigh goes to `weight`. `weights` null: every token weighs 1. For the whole block.
__device__ Count select(const float* logits, const Count* weights, int vocabulary, Count wanted, Count& weight) {
  __shared__ Count bins[kBins];
  __shared__ Count found_prefix, found_above;
  Count prefix = 0, above = 0;  // the key's leading bytes; the weight of all keys with greater ones
  for (int pass = 0; pass < kPasses; ++pass) {
    const int shift = 56 - 8 * pass;
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) bins[bin] = 0;
    __syncthreads();
    for (int token = static_cast<int>(threadIdx.x); token < vocabulary; token += kThreads) {
      const Count key = key_of(logits[token], token);
      const bool matches = pass == 0 || key >> (shift + 8) == prefix;
      if (matches) atomicAdd(&bins[key >> shift & 255], weights ? weights[token] : 1ull);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      Count sum = above;
      int bin = kBins - 1;
      for (; bin > 0 && sum + bins[bin] < wanted; --bin) sum += bins[bin];
      found_prefix = prefix << 8 | static_cast<Count>(bin);
      found_above = sum;
      if (pass == kPasses - 1) found_above += bins[bin];
    }
    __syncthreads();
    prefix = found_prefix;
    above = found_above;
    __syncthreads();
  }
  weight = above;
  return prefix;
}

__global__ void __launch_bounds__(kThreads) sample_kernel(SampleArgs args) {
  const int row = static_cast<int>(blockIdx.x);
  const float* const logits = args.logits + static_cast<std::size_t>(row) * args.vocabulary;
  Count weight = 0;
  const Count best = select(logits, nullptr, args.vocabulary, 1, weight);
  const float top = logits[token_of(best)];
  if (args.temperature == 0 || !is_finite(top / args.temperature)) {
    if (threadIdx.x == 0) args.tokens[row] = token_of(best);
    return;
  }
  Count lowest = 0;  // the last kept key
  if (args.top_k && args.top_k < static_cast<std::uint64_t>(args.vocabulary)) {
    lowest = select(logits, nullptr, args.vocabulary, static_cast<Count>(args.top_k), weight);
  }

  Count* const weights = reinterpret_cast<Count*>(args.weights) + static_cast<std::size_t>(row) * args.vocabulary;
  const double highest = top / args.temperature;
  for (int token = static_cast<int>(threadIdx.x); token < args.vocabulary; token += kThreads) {
    const double share = key_of(logits[token], token) < lowest ? 0.0 : exp(logits[token] / args.temperature - highest);
    weights[token] = share > 0.0 ? static_cast<Count>(rint(share * kOne)) : 0ull;
  }
  __syncthreads();

  Count total = 0;
  select(logits, weights, args.vocabulary, ~0ull, total);  // never reached: it weighs everything
  if (args.top_p < 1) {
    const Count kept = static_cast<Count>(ceil(args.top_p * static_cast<double>(total)));
    select(logits, weights, args.vocabulary, kept < 1 ? 1ull : kept > total ? total : kept, total);
  }
  // The first token at which the running sum exceeds uniform * total.
  Count draw = static_cast<Count>(args.uniforms[row] * static_cast<double>(total));
  if (draw >= total) draw = total - 1;
  const Count chosen = select(logits, weights, args.vocabulary, draw + 1, weight);
  if (threadIdx.x == 0) args.tokens[row] = token_of(chosen);
}

}  // namespace

cudaError_t launch_sample(const SampleArgs& args, cudaStream_t stream) {
  if (args.batch < 1 || args.vocabulary < 1 || !args.logits || !args.tokens) return cudaErrorInvalidValue;
  if (args.temperature != 0 && (!args.uniforms || !args.weights)) return cudaErrorInvalidValue;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(args.batch));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, sample_kernel, args);
}

}  // namespace xlstm::cuda
