// The object `forecast` of a manifest: how a forecaster's graph is fed, as FORMAT.md has it.
#pragma once

#include <cstddef>

#include "xlstm/xlstm.hpp"

namespace xlstm::internal {

class Fields;

struct ForecastSpec : ForecastInfo {
  explicit operator bool() const { return patch != 0; }
  std::size_t patches() const { return context / patch; }  // of the window
  std::size_t input_width() const { return 2 * patch; }
  std::size_t output_width() const { return patch * quantiles.size(); }
};

// Throws Error(bundle): an entry is missing or wrong.
ForecastSpec parse_forecast(const Fields& entries);

}  // namespace xlstm::internal
