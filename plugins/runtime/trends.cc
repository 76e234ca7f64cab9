#include "runtime/trends.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace xlstm::internal {
namespace {

constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();
constexpr std::size_t kFewest = 4;  // values that a line is fitted to
constexpr double kLeast = 1e-12;    // standard deviation of a series with a trend

// Whether a line explains the series: least squares over the values that are there.
bool has_trend(Span<const float> series, const ForecastInfo::Differencing& rule) {
  double values = 0, places = 0;
  std::size_t count = 0;
  for (std::size_t at = 0; at < series.size(); ++at) {
    if (std::isnan(series[at])) continue;
    values += static_cast<double>(series[at]);
    places += static_cast<double>(at);
    ++count;
  }
  if (count < kFewest) return false;
  const double n = static_cast<double>(count), mean = values / n, middle = places / n;
  double total = 0, shared = 0, spread = 0;
  for (std::size_t at = 0; at < series.size(); ++at) {
    if (std::isnan(series[at])) continue;
    const double value = static_cast<double>(series[at]) - mean, place = static_cast<double>(at) - middle;
    total += value * value;
    shared += place * value;
    spread += place * place;
  }
  const double deviation = std::sqrt(total / (n - 1));
  if (deviation < kLeast) return false;
  const double score = std::abs(shared) / spread / deviation * static_cast<double>(series.size());
  return score >= rule.score && shared * shared / (spread * total) >= rule.r_squared;
}

float factor(std::size_t step, const ForecastInfo::Calibration& band) {
  const float growth = std::pow(static_cast<float>(step), static_cast<float>(band.band_exponent - 0.5));
  return static_cast<float>(std::sqrt(band.band_scale)) * growth;
}

// One quantile of differences becomes one of sums: of the medians, and a band that widens as if steps were independent.
void sum_up(float* points, std::size_t horizon, std::size_t quantiles, std::size_t q, float level,
            const ForecastInfo::Calibration& band) {
  const std::size_t middle = quantiles / 2;
  const auto offset = [&](std::size_t t) { return points[t * quantiles + q] - points[t * quantiles + middle]; };
  double sum = 0, path = 0, squares = 0;
  for (std::size_t t = 0; t < horizon; ++t) sum += static_cast<double>(offset(t));
  const double sign = sum > 0 ? 1 : sum < 0 ? -1 : 0;
  for (std::size_t t = 0; t < horizon; ++t) {
    const double apart = static_cast<double>(offset(t));
    squares += apart * apart;
    path += static_cast<double>(points[t * quantiles + middle]);
    points[t * quantiles + q] =
        static_cast<float>(path) + factor(t + 1, band) * static_cast<float>(sign * std::sqrt(squares)) + level;
  }
}

}  // namespace

Reading Reading::of(Span<const float> series, const ForecastInfo& info) {
  return {info.differencing && has_trend(series, *info.differencing), last_value(series)};
}

void Reading::fill(Span<const float> series, std::vector<float>& window, std::size_t context) const {
  const std::size_t count = std::min(series.size(), context), first = series.size() - count;
  window.assign(context - count, kMissing);
  window.insert(window.end(), series.begin() + first, series.end());
  if (!differenced) return;
  for (std::size_t at = first; at < series.size(); ++at) {
    window[context - series.size() + at] = at ? series[at] - series[at - 1] : 0.0f;
  }
}

void Reading::finish(float* points, std::size_t horizon, const ForecastInfo& info) const {
  const std::size_t quantiles = info.quantiles.size(), middle = quantiles / 2;
  if (differenced) {
    for (std::size_t q = 0; q < quantiles; ++q) {
      if (q != middle) sum_up(points, horizon, quantiles, q, level, info.differencing->band);
    }
    sum_up(points, horizon, quantiles, middle, level, info.differencing->band);  // which the others look at
  } else if (info.calibration) {
    for (std::size_t t = 0; t < horizon; ++t) {
      float* const row = points + t * quantiles;
      const float median = row[middle], stretch = factor(t + 1, *info.calibration);
      for (std::size_t q = 0; q < quantiles; ++q) row[q] = median + stretch * (row[q] - median);
    }
  }
}

float last_value(Span<const float> series) {
  for (std::size_t at = series.size(); at > 0; --at) {
    if (!std::isnan(series[at - 1])) return series[at - 1];
  }
  return 0;
}

}  // namespace xlstm::internal
