// Tokens in the order of a sort by descending logit have distinct keys: the logit's bits, as a number that rises with
// it, and the token. Whatever the sampler asks for is the last token, in that order, of the shortest head of it with
// enough tokens or enough probability. A radix search finds it, twelve bits a pass, without sorting.
//
// Three kernels: the first token of each row, which is all that a greedy choice needs; the probabilities, spread over
// the whole GPU, since most have but a trickle of double precision in each multiprocessor; the searches, a block a row.
#include <cuda_runtime.h>

#include "runtime/device_sampler.h"

namespace xlstm::cuda {
namespace {

constexpr int kWarp = 32, kThreads = 512, kWarps = kThreads / kWarp;
constexpr int kBatch = 16;  // logits that a thread has in flight: 32 KiB a block
constexpr int kDigit = 12;
constexpr unsigned kBins = 1 << kDigit, kOwnBins = kBins / kThreads;
constexpr int kWeightThreads = 256, kWeightTokens = 4;  // tokens of a thread
constexpr double kOne = 1099511627776.0;                // 2^40
using Weight = unsigned long long;

// Rises with the logit. A NaN is the greatest.
__device__ __forceinline__ unsigned rank_of(float logit) {
  union {
    float value;
    unsigned bits;
  } word = {logit + 0.0f};  // -0 becomes +0
  const unsigned rank = word.bits & 0x80000000u ? ~word.bits : word.bits | 0x80000000u;
  return logit != logit ? 0xffffffffu : rank;
}

struct Row {
  const float* logits;
  Weight* weights;
  int vocabulary;

  __device__ Row(const SampleArgs& args, unsigned row)
      : logits(args.logits + static_cast<std::size_t>(row) * static_cast<unsigned>(args.vocabulary)),
        weights(reinterpret_cast<Weight*>(args.weights) +
                static_cast<std::size_t>(row) * static_cast<unsigned>(args.vocabulary)),
        vocabulary(args.vocabulary) {}

  // Calls fn(token, logit, weight) for the thread's tokens; the weight is 0 without `weighed`. Every loop over all
  // tokens is this one: loads first, and no arithmetic about where they lie.
  template <typename Function>
  __device__ __forceinline__ void for_each(bool weighed, Function&& fn) const {
    int token = static_cast<int>(threadIdx.x);
    for (; token + kThreads * (kBatch - 1) < vocabulary; token += kThreads * kBatch) {
      float logit[kBatch];
      Weight weight[kBatch] = {};
#pragma unroll
      for (int u = 0; u < kBatch; ++u) logit[u] = logits[token + u * kThreads];
      if (weighed) {
#pragma unroll
        for (int u = 0; u < kBatch; ++u) weight[u] = weights[token + u * kThreads];
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u) fn(token + u * kThreads, logit[u], weight[u]);
    }
    for (; token < vocabulary; token += kThreads) fn(token, logits[token], weighed ? weights[token] : 0);
  }
};

__global__ void __launch_bounds__(kThreads) first_kernel(const SampleArgs args) {
  __shared__ Weight of_warp[kWarps];
  const Row row(args, blockIdx.x);
  Weight greatest = 0;  // of rank and token; among equal logits the lower token's is greater
  row.for_each(false, [&](int token, float logit, Weight) {
    const Weight key = static_cast<Weight>(rank_of(logit)) << 32 | ~static_cast<unsigned>(token);
    if (key > greatest) greatest = key;
  });
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const Weight other = __shfl_xor_sync(0xffffffffu, greatest, offset);
    if (other > greatest) greatest = other;
  }
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = greatest;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kWarps; ++warp) {
    if (of_warp[warp] > greatest) greatest = of_warp[warp];
  }
  args.tokens[blockIdx.x] = static_cast<int>(~static_cast<unsigned>(greatest));
}

// Of the first token, which args.tokens holds: what all exponents are taken relative to. False where it is not finite;
// then that token is chosen.
__device__ __forceinline__ bool first_exponent(const SampleArgs& args, const Row& row, double& exponent) {
  exponent = row.logits[args.tokens[blockIdx.x]] / args.temperature;
  return exponent - exponent == 0;
}

// Grid: (rows, parts of the vocabulary).
__global__ void __launch_bounds__(kWeightThreads) weights_kernel(const SampleArgs args) {
  const Row row(args, blockIdx.x);
  double first = 0;
  if (!first_exponent(args, row, first)) return;
  const int begin = static_cast<int>(blockIdx.y * kWeightThreads * kWeightTokens + threadIdx.x);
#pragma unroll
  for (int u = 0; u < kWeightTokens; ++u) {
    const int token = begin + u * kWeightThreads;
    if (token >= row.vocabulary) return;
    const double share = exp(row.logits[token] / args.temperature - first);
    row.weights[token] = share > 0.0 ? static_cast<Weight>(rint(share * kOne)) : 0;
  }
}

// Sums of 64 bits out of atomics of 32, which shared memory has instructions for.
struct Bins {
  unsigned low[kBins], high[kBins];

  // Bins that a thread sums up lie apart, so that those of neighbouring threads lie in different banks.
  static __device__ __forceinline__ unsigned place(unsigned bin) { return bin % kOwnBins * kThreads + bin / kOwnBins; }

  __device__ __forceinline__ void add_one(unsigned bin) { atomicAdd(&low[place(bin)], 1u); }
  __device__ __forceinline__ void add(unsigned bin, Weight weight) {
    const unsigned addend = static_cast<unsigned>(weight);
    const unsigned before = atomicAdd(&low[place(bin)], addend);
    const unsigned carry = before > 0xffffffffu - addend;
    const unsigned rest = static_cast<unsigned>(weight >> 32) + carry;
    if (rest) atomicAdd(&high[place(bin)], rest);
  }
  __device__ __forceinline__ Weight take(unsigned bin) {
    unsigned &few = low[place(bin)], &many = high[place(bin)];
    const Weight sum = static_cast<Weight>(many) << 32 | few;
    few = many = 0;
    return sum;
  }
};

struct Shared {
  Bins bins;
  Weight of_warp[kWarps];
  unsigned digit;
  Weight above, reached;
};

// A search for the last token of the shortest head that weighs enough; for the whole block.
template <bool kWeighed>
class Search {
 public:
  __device__ Search(Shared& shared, const Row& row) : shared_(shared), row_(row) {}

  // `wanted_of` gives what is enough, 1 or more, out of what all tokens weigh; without kWeighed each weighs 1.
  template <typename Wanted>
  __device__ int last(Wanted&& wanted_of) {
    unsigned rank = 0;
    for (int left = 32; left > 0;) {
      const int bits = left < kDigit ? left : kDigit;
      const bool all = left == 32;
      left -= bits;
      rank = rank << bits | digit(all, wanted_of, [&](int, float logit, unsigned& digit) {
               const unsigned leading = rank_of(logit) >> left;
               digit = leading & ((1u << bits) - 1);
               return leading >> bits == rank;
             });
    }
    int token_bits = 0;
    while ((row_.vocabulary - 1) >> token_bits) ++token_bits;
    unsigned token = 0;  // from the last one down
    const unsigned last_token = (1u << token_bits) - 1;
    for (int left = token_bits; left > 0;) {
      const int bits = left < kDigit ? left : kDigit;
      left -= bits;
      token = token << bits | digit(false, wanted_of, [&](int other, float logit, unsigned& digit) {
                const unsigned leading = (last_token - static_cast<unsigned>(other)) >> left;
                digit = leading & ((1u << bits) - 1);
                return leading >> bits == token && rank_of(logit) == rank;
              });
    }
    return static_cast<int>(last_token - token);
  }
  __device__ Weight reached() const { return shared_.reached; }  // what the head weighs that was found

 private:
  // The digit, of those tokens for which `digit_of` gives one, at which their weight, from the greatest digit down,
  // is enough. The first call is about `all` tokens.
  template <typename Wanted, typename DigitOf>
  __device__ __forceinline__ unsigned digit(bool all, Wanted&& wanted_of, DigitOf&& digit_of) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const unsigned top_bin = kBins - 1 - threadIdx.x * kOwnBins;
    row_.for_each(kWeighed && all, [&](int token, float logit, Weight weight) {
      unsigned bin = 0;
      if (!digit_of(token, logit, bin)) return;
      if (!kWeighed) return shared_.bins.add_one(bin);
      shared_.bins.add(bin, all ? weight : row_.weights[token]);
    });
    __syncthreads();

    // What lies before this thread's bins: in its warp, and in the warps before.
    Weight own[kOwnBins], sum = 0, before = 0;
#pragma unroll
    for (unsigned i = 0; i < kOwnBins; ++i) sum += own[i] = shared_.bins.take(top_bin - i);
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const Weight other = __shfl_xor_sync(0xffffffffu, sum, offset);
      if (lane & offset) before += other;
      sum += other;
    }
    if (lane == 0) shared_.of_warp[warp] = sum;
    __syncthreads();
    Weight total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) before += total;
      total += shared_.of_warp[w];
    }
    if (all) wanted_ = wanted_of(total), above_ = 0;
    before += above_;
#pragma unroll
    for (unsigned i = 0; i < kOwnBins; ++i) {
      if (before < wanted_ && wanted_ - before <= own[i]) {
        shared_.digit = top_bin - i;
        shared_.above = before;
        shared_.reached = before + own[i];
      }
      before += own[i];
    }
    __syncthreads();
    above_ = shared_.above;
    return shared_.digit;
  }

  Shared& shared_;
  const Row& row_;
  Weight wanted_ = 0, above_ = 0;  // above_: of all tokens whose digits so far are greater
};

__global__ void __launch_bounds__(kThreads, 1) choose_kernel(const SampleArgs args) {
  __shared__ Shared shared;
  const Row row(args, blockIdx.x);
  double first = 0;
  if (!first_exponent(args, row, first)) return;
  for (unsigned bin = threadIdx.x; bin < kBins; bin += kThreads) shared.bins.take(bin);
  __syncthreads();

  if (args.top_k && args.top_k < static_cast<std::uint64_t>(args.vocabulary)) {
    const int last = Search<false>(shared, row).last([&](Weight) { return static_cast<Weight>(args.top_k); });
    const unsigned rank = rank_of(row.logits[last]);
    row.for_each(false, [&](int token, float logit, Weight) {
      const unsigned other = rank_of(logit);
      if (other < rank || (other == rank && token > last)) row.weights[token] = 0;  // for this thread, as below
    });
  }
  Search<true> search(shared, row);
  Weight kept = 0;  // 0: all
  if (args.top_p < 1) {
    search.last([&](Weight total) {
      const Weight some = static_cast<Weight>(ceil(args.top_p * static_cast<double>(total)));
      return some < 1 ? 1 : some > total ? total : some;
    });
    kept = search.reached();
  }
  // The first token at which the running sum exceeds uniform * total.
  const int chosen = search.last([&](Weight all) {
    const Weight total = kept ? kept : all;
    const Weight drawn = static_cast<Weight>(args.uniforms[blockIdx.x] * static_cast<double>(total));
    return 1 + (drawn < total ? drawn : total - 1);
  });
  if (threadIdx.x == 0) args.tokens[blockIdx.x] = chosen;
}

cudaError_t launch(void (*kernel)(SampleArgs), dim3 grid, int threads, const SampleArgs& args, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, args);
}

}  // namespace

cudaError_t launch_sample(const SampleArgs& args, cudaStream_t stream) {
  constexpr int kMaxVocabulary = 1 << 25;  // what a grid's height has room for
  if (args.batch < 1 || args.vocabulary < 1 || args.vocabulary > kMaxVocabulary) return cudaErrorInvalidValue;
  if (!args.logits || !args.tokens) return cudaErrorInvalidValue;
  if (args.temperature != 0 && (!args.uniforms || !args.weights)) return cudaErrorInvalidValue;
  const unsigned rows = static_cast<unsigned>(args.batch);
  cudaError_t status = launch(first_kernel, dim3(rows), kThreads, args, stream);
  if (args.temperature == 0 || status != cudaSuccess) return status;
  const int parts = (args.vocabulary - 1) / (kWeightThreads * kWeightTokens) + 1;
  status = launch(weights_kernel, dim3(rows, static_cast<unsigned>(parts)), kWeightThreads, args, stream);
  if (status != cudaSuccess) return status;
  return launch(choose_kernel, dim3(rows), kThreads, args, stream);
}

}  // namespace xlstm::cuda
