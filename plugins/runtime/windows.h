// Between series and patches: windows, their scale, the model's input. FORMAT.md's section on forecasts.
#pragma once

#include <cstddef>
#include <vector>

#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

// Of one window.
struct Scaling {
  float loc = 0, scale = 1;
  bool bent = false;  // through arcsinh

  // Mean and standard deviation of the values that are there (not NaN).
  static Scaling of(Span<const float> window, const ForecastInfo::Scaler& scaler);
  float apply(float value) const;
  float undo(float value) const;
};

// Throws Error(argument) where a value of series `row` is infinite.
void check_finite(Span<const float> values, std::size_t row);

// Writes the model's input for whole patches of one series: for each, P scaled values, 0 where missing, then P numbers
// that are 1 where there is a value.
void write_patches(Span<const float> values, std::size_t patch, const Scaling& scaling, float* input);

// Writes the points of one patch from the model's output: quantile q of point t is output[q * patch + t]; it goes to
// points[t * quantiles + q], in the units of the series.
void write_points(Span<const float> output, std::size_t patch, const Scaling& scaling, float* points);

}  // namespace xlstm::internal
