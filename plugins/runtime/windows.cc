#include "runtime/windows.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace xlstm::internal {
namespace {

constexpr float kLargest = 20;  // that sinh is given, either way

bool is_binary(Span<const float> window) {
  return std::all_of(window.begin(), window.end(), [](float x) { return x == 0 || x == 1 || std::isnan(x); });
}

}  // namespace

Scaling Scaling::of(Span<const float> window, const ForecastInfo::Scaler& scaler) {
  double total = 0, squares = 0;
  std::size_t count = 0;
  for (const float value : window) {
    if (std::isnan(value)) continue;
    total += static_cast<double>(value);
    ++count;
  }
  Scaling scaling;
  if (scaler.binary && is_binary(window)) return scaling;
  scaling.bent = scaler.arcsinh;
  if (!count) return scaling;
  scaling.loc = static_cast<float>(total / static_cast<double>(count));
  for (const float value : window) {
    if (std::isnan(value)) continue;
    const double difference = static_cast<double>(value - scaling.loc);
    squares += difference * difference;
  }
  scaling.scale = static_cast<float>(std::sqrt(squares / static_cast<double>(count)));
  if (!scaler.standard) {
    scaling.scale = std::max(scaling.scale, static_cast<float>(scaler.floor));
  } else if (scaling.scale == 0) {
    scaling.scale = std::abs(scaling.loc) + 1e-5f;
  }
  return scaling;
}

float Scaling::apply(float value) const {
  const float scaled = (value - loc) / scale;
  return bent ? std::asinh(scaled) : scaled;
}

float Scaling::undo(float value) const {
  return (bent ? std::sinh(std::min(std::max(value, -kLargest), kLargest)) : value) * scale + loc;
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
