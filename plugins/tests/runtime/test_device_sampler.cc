// The sampling kernel's own source on the CUDA stand-in of ../cuda_on_cpu, against xlstm::Sampler.
#include <cuda_runtime.h>

#include <cmath>

// The stand-in runs one thread at a time.
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
  const unsigned long long old = *at;
  *at += value;
  return old;
}

#include "check.h"
#include "runtime/device_sampler.cu"

namespace {

double random_sample(std::mt19937& random) {
  const double high = random() >> 5, low = random() >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

std::vector<float> make_logits(int vocabulary, std::mt19937& random, int kind) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(static_cast<std::size_t>(vocabulary));
  for (float& logit : logits) {
    logit = normal(random);
    if (kind == 1) logit = std::round(logit);               // many ties
    if (kind == 2) logit = random() % 2 ? 0.0f : -0.0f;     // all equal
    if (kind == 3 && random() % 3 == 0) logit = -INFINITY;  // masked tokens
    if (kind == 4) logit = -INFINITY;
    if (kind == 5 && random() % 50 == 0) logit = INFINITY;
    if (kind == 6 && random() % 50 == 0) logit = random() % 2 ? NAN : -NAN;  // a broken model
  }
  if (kind < 4) logits[0] = 1.0f;
  return logits;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (const int vocabulary : {1, 2, 97, 300}) {
    for (int kind = 0; kind < 7; ++kind) {
      for (const auto& [temperature, top_k, top_p] : {std::tuple{0.0, 0, 1.0},
                                                      {1.0, 0, 1.0},
                                                      {0.7, 5, 1.0},
                                                      {1.0, 0, 0.8},
                                                      {2.0, 40, 0.9},
                                                      {1.0, 1, 0.5},
                                                      {0.3, 0, 1e-6}}) {
        constexpr int kBatch = 3;
        simulator::set_schedule(random() % 8);
        std::vector<float> logits;
        for (int row = 0; row < kBatch; ++row) {
          const auto more = make_logits(vocabulary, random, kind);
          logits.insert(logits.end(), more.begin(), more.end());
        }
        const std::uint32_t seed = static_cast<std::uint32_t>(random());
        std::mt19937 stream(seed);
        std::vector<double> uniforms(kBatch);
        for (double& uniform : uniforms) uniform = random_sample(stream);
        std::vector<std::int64_t> tokens(kBatch, -1);
        std::vector<std::uint64_t> weights(logits.size());
        const xlstm::cuda::SampleArgs args{
            logits.data(), uniforms.data(), tokens.data(), weights.data(),
            kBatch,        vocabulary,      temperature,   static_cast<std::uint64_t>(top_k),
            top_p};
        CHECK(xlstm::cuda::launch_sample(args, nullptr) == cudaSuccess);
        xlstm::Sampler sampler({temperature, static_cast<std::size_t>(top_k), top_p, seed});
        const std::size_t width = static_cast<std::size_t>(vocabulary);
        for (std::size_t row = 0; row < kBatch; ++row) {
          CHECK(tokens[row] == sampler(xlstm::Span<const float>(logits.data() + row * width, width)));
        }
      }
    }
  }
}
