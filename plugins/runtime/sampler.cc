// The same choice as xlstm_export/runtime/sampling.py makes: the same random numbers, the same order of additions.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "xlstm/xlstm.hpp"

namespace xlstm {

// 53 random bits, as numpy's RandomState.random_sample draws them.
double Sampler::uniform() {
  const double high = random_() >> 5, low = random_() >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

Sampler::Sampler(const Sampling& sampling) : sampling_(sampling), random_(sampling.seed) {
  const auto refuse = [](const std::string& what) { throw Error(ErrorCode::argument, what); };
  if (!std::isfinite(sampling.temperature) || sampling.temperature < 0) {
    refuse("The temperature is " + std::to_string(sampling.temperature) + "; give 0 (greedy) or a positive number.");
  }
  if (!(sampling.top_p > 0 && sampling.top_p <= 1)) {
    refuse("top-p is " + std::to_string(sampling.top_p) + "; give a number above 0 and up to 1.");
  }
}

std::int64_t Sampler::operator()(Span<const float> logits) {
  if (logits.empty()) throw Error(ErrorCode::argument, "There are no logits to choose from.");
  // Descending, ties by index. A NaN is the greatest, as it is to numpy's argmax.
  const auto before = [logits](std::uint32_t a, std::uint32_t b) {
    const float x = logits[a], y = logits[b];
    if (std::isnan(x) || std::isnan(y)) return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(x);
    return x != y ? x > y : a < b;
  };
  if (sampling_.temperature == 0) {
    std::uint32_t best = 0;
    for (std::uint32_t i = 1; i < logits.size(); ++i) {
      if (before(i, best)) best = i;
    }
    return best;
  }
  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0u);
  std::size_t count = logits.size();
  if (sampling_.top_k && sampling_.top_k < count) count = sampling_.top_k;
  std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(count), order_.end(), before);

  const double random = uniform();
  const double highest = logits[order_[0]] / sampling_.temperature;
  if (!std::isfinite(highest)) return order_[0];
  cumulative_.resize(count);
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    sum += std::exp(logits[order_[i]] / sampling_.temperature - highest);
    cumulative_[i] = sum;
  }
  auto end = cumulative_.end();
  if (sampling_.top_p < 1) {
    const auto last = std::lower_bound(cumulative_.begin(), end, sampling_.top_p * cumulative_.back());
    if (last != end) end = last + 1;
  }
  const auto chosen = std::min(std::upper_bound(cumulative_.begin(), end, random * *(end - 1)), end - 1);
  return order_[static_cast<std::size_t>(chosen - cumulative_.begin())];
}

}  // namespace xlstm
