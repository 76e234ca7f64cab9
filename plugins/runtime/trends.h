// Series that rise or fall throughout are fed as differences; bands are stretched. FORMAT.md's section on forecasts.
#pragma once

#include <cstddef>
#include <vector>

#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

// How one series is fed, and how what comes out is read: settled where a window begins.
struct Reading {
  bool differenced = false;
  float level = 0;  // the last value that is there, where differences go on from

  static Reading of(Span<const float> series, const ForecastInfo& info);

  // Writes the window of what is fed: the newest `context` values, and missing ones before the first of a shorter
  // series.
  void fill(Span<const float> series, std::vector<float>& window, std::size_t context) const;

  // Turns quantiles of what was fed, from its end on, into those of the series: (horizon, quantiles), in place.
  void finish(float* points, std::size_t horizon, const ForecastInfo& info) const;
};

// 0 where no value is there.
float last_value(Span<const float> series);

}  // namespace xlstm::internal
