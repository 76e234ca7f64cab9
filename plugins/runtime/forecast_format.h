// The object `forecast` of a manifest: how a forecaster's graph is fed, as FORMAT.md has it.
#pragma once

#include <cstddef>
#include <vector>

namespace xlstm::internal {

class Fields;

struct ForecastSpec {
  std::size_t patch = 0;          // points of a patch, P; 0: the model is no forecaster
  std::size_t context = 0;        // points of the window, a multiple of P
  std::vector<double> quantiles;  // levels, ascending

  explicit operator bool() const { return patch != 0; }
  std::size_t patches() const { return context / patch; }  // of the window
  std::size_t input_width() const { return 2 * patch; }
  std::size_t output_width() const { return patch * quantiles.size(); }
};

// Throws Error(bundle): an entry is missing or wrong.
ForecastSpec parse_forecast(const Fields& entries);

}  // namespace xlstm::internal
