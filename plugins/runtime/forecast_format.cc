#include "runtime/forecast_format.h"

#include <string>

#include "runtime/strict_json.h"

namespace xlstm::internal {
namespace {

ForecastInfo::Scaler parse_scaler(const Fields& entries) {
  if (entries.is("scaler", "standard")) return {};
  const Fields scaler = entries.below("scaler");
  return {false, scaler.number("floor"), scaler.boolean("arcsinh"), scaler.boolean("binary")};
}

ForecastInfo::Calibration parse_calibration(const Fields& entries) {
  return {entries.number("band_scale"), entries.number("band_exponent")};
}

ForecastInfo::Differencing parse_differencing(const Fields& entries) {
  return {entries.number("score"), entries.number("r_squared"), parse_calibration(entries.below("band"))};
}

}  // namespace

ForecastSpec parse_forecast(const Fields& entries) {
  ForecastSpec spec;
  spec.quantiles = entries.fractions("quantiles");
  double before = 0;
  for (const double level : spec.quantiles) {
    if (!(before < level && level < 1)) entries.fail("forecast.quantiles do not rise between 0 and 1");
    before = level;
  }
  if (spec.quantiles.empty()) entries.fail("forecast.quantiles is empty");
  spec.patch = static_cast<std::size_t>(entries.count("patch"));
  spec.context = static_cast<std::size_t>(entries.count("context"));
  spec.scaler = parse_scaler(entries);
  entries.choice("missing", {"zero"});
  entries.choice("padding", {"left"});
  entries.choice("rollout", {"masked"});
  if (!entries.is_absent("horizon")) spec.horizon = static_cast<std::size_t>(entries.count("horizon"));
  if (!entries.is_absent("differencing")) spec.differencing = parse_differencing(entries.below("differencing"));
  if (!entries.is_absent("calibration")) spec.calibration = parse_calibration(entries.below("calibration"));
  if (spec.context % spec.patch) {
    entries.fail("forecast.context is " + std::to_string(spec.context) + ", not a multiple of the patch of " +
                 std::to_string(spec.patch));
  }
  return spec;
}

}  // namespace xlstm::internal
