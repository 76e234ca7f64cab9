#include "runtime/windows.h"

#include <cmath>
#include <string>

namespace xlstm::internal {

Scaling Scaling::of(Span<const float> window) {
  double total = 0, squares = 0;
  std::size_t count = 0;
  for (const float value : window) {
    if (std::isnan(value)) continue;
    total += static_cast<double>(value);
    ++count;
  }
  Scaling scaling;
  if (!count) return scaling;
  scaling.loc = static_cast<float>(total / static_cast<double>(count));
  for (const float value : window) {
    if (std::isnan(value)) continue;
    const double difference = static_cast<double>(value - scaling.loc);
    squares += difference * difference;
  }
  scaling.scale = static_cast<float>(std::sqrt(squares / static_cast<double>(count)));
  if (scaling.scale == 0) scaling.scale = std::abs(scaling.loc) + 1e-5f;
  return scaling;
}

void check_finite(Span<const float> values, std::size_t row) {
  for (std::size_t at = 0; at < values.size(); ++at) {
    if (std::isinf(values[at])) {
      throw Error(ErrorCode::argument, "Series " + std::to_string(row) + " has an infinite value at " +
                                           std::to_string(at) + ". Give NaN for what is missing.");
    }
  }
}

void write_patches(Span<const float> values, std::size_t patch, const Scaling& scaling, float* input) {
  for (std::size_t at = 0; at < values.size(); ++at) {
    float* const to = input + at / patch * 2 * patch + at % patch;
    const bool missing = std::isnan(values[at]);
    to[0] = missing ? 0.0f : scaling.apply(values[at]);
    to[patch] = missing ? 0.0f : 1.0f;
  }
}

void write_points(Span<const float> output, std::size_t patch, const Scaling& scaling, float* points) {
  const std::size_t quantiles = output.size() / patch;
  for (std::size_t q = 0; q < quantiles; ++q) {
    for (std::size_t t = 0; t < patch; ++t) points[t * quantiles + q] = scaling.undo(output[q * patch + t]);
  }
}

}  // namespace xlstm::internal
