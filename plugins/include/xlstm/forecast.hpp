// Forecast series with a bundle of a forecaster (TiRex, TiRex-2), from C++17.
//
//   xlstm::Forecaster forecaster(xlstm::Model::load("bundles/tirex"));
//   xlstm::Forecast next = forecaster.forecast({history}, 64);      // history: std::vector<float>, NaN where missing
//   float median = next.at(0, 0, 4);                                // series 0, the next point, the fifth quantile
//
//   xlstm::ForecastStream stream(model, {history});                 // one step of the model for every patch of points
//   while (read(point)) {
//     if (stream.push({&point, 1})) print(stream.forecast(64));
//   }
//
// What a forecast is, FORMAT.md says (installed in share/doc/xlstm). Both classes belong to one thread at a time;
// errors are those of xlstm.hpp.
#pragma once

#include <xlstm/xlstm.hpp>

#include <cstddef>
#include <memory>
#include <vector>

namespace xlstm {

/// Quantiles of what comes after each series, in its units.
struct Forecast {
  std::size_t series = 0, horizon = 0, quantiles = 0;
  std::vector<float> values;  ///< (series, horizon, quantiles), row-major

  float at(std::size_t row, std::size_t step, std::size_t quantile) const {
    return values[(row * horizon + step) * quantiles + quantile];
  }
};

/// A series: the newest value last, NaN where missing. It may be empty.
using Series = std::vector<float>;

/// Forecasts of any number of series, each from its newest points: what upstream gives for the same series. Whether a
/// series has a trend (ForecastInfo::differencing) is asked of all its points.
class XLSTM_API Forecaster {
 public:
  /// `batch`: series side by side in one pass.
  /// Errors: argument (the model is no forecaster; the batch), runtime.
  explicit Forecaster(const Model& model, int batch = 1);
  Forecaster(Forecaster&&) noexcept;
  Forecaster& operator=(Forecaster&&) noexcept;
  ~Forecaster();

  const ForecastInfo& info() const noexcept;

  /// `horizon`: points to forecast, as upstream does unless told otherwise.
  /// Errors: argument (a horizon of 0 or beyond ForecastInfo::horizon, a value that is infinite), runtime.
  Forecast forecast(const std::vector<Series>& series, std::size_t horizon);

  /// `rollout`: patches that one window is used for; 1 is what TiRex does unless told otherwise, more are faster over
  /// long horizons, and another forecast.
  /// Errors: as above; argument (a rollout of 0, or any of a model with a ForecastInfo::horizon).
  Forecast forecast(const std::vector<Series>& series, std::size_t horizon, std::size_t rollout);

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

/// Series that advance together, a point each at a time, at a constant cost for each patch of points. It differs from a
/// Forecaster in three ways. The scale is that of the window it began with, and whether a series is fed as differences
/// was settled there, from the newest `context` + 1 points. The states have seen all points since then.
/// Patches end at every `patch`-th point since then, and a forecast is made where one ends: in between, it is that of
/// the last one without the points that have arrived. It begins anew (`refresh`) by this rule: where a patch ends, for
/// some series the mean of the newest window has moved by more than `drift` times the scale in use, its scale has grown
/// or shrunk by more than a factor of 1 + `drift`, or it has got or lost a trend.
class XLSTM_API ForecastStream {
 public:
  /// `series`: what is known of each. `drift`: 0: no refresh but those that are called for.
  /// Errors: argument (the model is no forecaster; no series; a value that is infinite; a negative drift), runtime.
  ForecastStream(const Model& model, const std::vector<Series>& series, double drift = 0.25);
  ForecastStream(ForecastStream&&) noexcept;
  ForecastStream& operator=(ForecastStream&&) noexcept;
  ~ForecastStream();

  const ForecastInfo& info() const noexcept;

  /// Take the next point of each series. Returns whether a patch ended with it.
  /// Errors: argument (another number of series, a value that is infinite; nothing is taken then), runtime.
  bool push(Span<const float> points);

  /// Begin anew from the newest window, with its own scale; a patch ends at the newest point.
  void refresh();

  /// How many times it began anew by the rule.
  std::size_t refreshes() const noexcept;

  /// What comes after the newest point. Patches beyond the first are forecast from patches without a value; the states
  /// are as they were.
  /// Errors: argument (a horizon of 0 or beyond ForecastInfo::horizon), runtime.
  Forecast forecast(std::size_t horizon);

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace xlstm
