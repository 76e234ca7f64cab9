#include "runtime/forecast_format.h"

#include <string>

#include "runtime/strict_json.h"

namespace xlstm::internal {

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
  entries.choice("scaler", {"standard"});
  entries.choice("missing", {"zero"});
  entries.choice("padding", {"left"});
  entries.choice("rollout", {"masked"});
  if (spec.context % spec.patch) {
    entries.fail("forecast.context is " + std::to_string(spec.context) + ", not a multiple of the patch of " +
                 std::to_string(spec.patch));
  }
  return spec;
}

}  // namespace xlstm::internal
