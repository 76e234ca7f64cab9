// Forecasts, on the public interface of a session: FORMAT.md's section on forecasts.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "runtime/trends.h"
#include "runtime/windows.h"
#include "xlstm/forecast.hpp"

namespace xlstm {
namespace {

using internal::Reading;
using internal::Scaling;

constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();
constexpr std::size_t kKeptPaddings = 16;  // states, of which a series needs one for each patch that it is short of

const ForecastInfo& info_of(const Model& model) {
  if (!model.info().forecast.patch) {
    throw Error(ErrorCode::argument, "This model is no forecaster: its manifest has no `forecast`.");
  }
  return model.info().forecast;
}

void check_horizon(std::size_t horizon, const ForecastInfo& info) {
  if (!horizon) throw Error(ErrorCode::argument, "The horizon is 0; give 1 or more points.");
  if (info.horizon && horizon > info.horizon) {
    throw Error(ErrorCode::argument, "The horizon is " + std::to_string(horizon) + "; this model forecasts " +
                                         std::to_string(info.horizon) + " points at most.");
  }
}

// The patches of a batch of windows, fed to a session from the start or one after another.
class Feeder {
 public:
  Feeder(const Model& model, int batch)
      : model_(model), info_(info_of(model_)), session_(model_.session(batch)), rows_(static_cast<std::size_t>(batch)) {
    readings.resize(rows_);
    windows.resize(rows_);
    scalings.resize(rows_);
  }

  const ForecastInfo& info() const { return info_; }
  std::size_t rows() const { return rows_; }
  std::size_t quantiles() const { return info_.quantiles.size(); }

  std::vector<Reading> readings;            // of each row's series
  std::vector<std::vector<float>> windows;  // what the model is fed of it
  std::vector<Scaling> scalings;            // what its values are scaled by

  // Settle how a series is read, and write its window.
  void begin(std::size_t row, const Series& series) {
    readings[row] = Reading::of(series, info_);
    readings[row].fill(series, windows[row], info_.context);
  }

  void rescale() {
    for (std::size_t row = 0; row < rows_; ++row) scalings[row] = Scaling::of(windows[row], info_.scaler);
  }

  // Feed the windows from states of zero.
  Logits run_window() {
    const std::size_t patches = info_.context / info_.patch;
    std::size_t first = patches - 1;  // the first patch in which any row has a value
    for (const std::vector<float>& window : windows) {
      const auto value = std::find_if(window.begin(), window.end(), [](float x) { return !std::isnan(x); });
      first = std::min(first, static_cast<std::size_t>(value - window.begin()) / info_.patch);
    }
    write_padding(first);
    return run_newest(patches - first);
  }

  // Feed the last patches of the windows.
  Logits run_newest(std::size_t patches) {
    const std::size_t points = patches * info_.patch, values = 2 * points;
    input_.resize(rows_ * values);
    for (std::size_t row = 0; row < rows_; ++row) {
      const std::vector<float>& window = windows[row];
      const Span<const float> newest(window.data() + window.size() - points, points);
      internal::write_patches(newest, info_.patch, scalings[row], input_.data() + row * values);
    }
    return patches == 1 ? session_.step_vectors(input_) : session_.prefill_vectors(input_);
  }

  // Feed patches without a value.
  Logits run_missing(std::size_t patches = 1) {
    input_.assign(rows_ * patches * 2 * info_.patch, 0.0f);
    return patches == 1 ? session_.step_vectors(input_) : session_.prefill_vectors(input_);
  }

  // Write the patch that an output holds as the points from `at` on of a forecast.
  void write(const Logits& output, std::size_t at, std::size_t horizon, std::vector<float>& values) const {
    for (std::size_t row = 0; row < rows_; ++row) {
      float* const points = values.data() + (row * horizon + at) * quantiles();
      internal::write_points(output[row], info_.patch, scalings[row], points);
    }
  }

  std::vector<std::uint8_t> save() const { return session_.save(); }
  void load(const std::vector<std::uint8_t>& states) { session_.load(states); }

 private:
  // Set the states to those after so many patches without a value, which are the model's constants.
  void write_padding(std::size_t count) {
    if (!count) return session_.reset();
    const auto found = paddings_.find(count);
    if (found != paddings_.end()) return session_.load(found->second);
    const auto after = paddings_.lower_bound(count);  // from the greatest count that is known below this one
    std::size_t known = 0;
    if (after == paddings_.begin()) {
      session_.reset();
    } else {
      known = std::prev(after)->first;
      session_.load(std::prev(after)->second);
    }
    run_missing(count - known);
    if (paddings_.size() == kKeptPaddings) paddings_.erase(paddings_.begin());
    paddings_.emplace(count, session_.save());
  }

  Model model_;
  const ForecastInfo& info_;
  Session session_;
  std::size_t rows_;
  std::map<std::size_t, std::vector<std::uint8_t>> paddings_;
  std::vector<float> input_;
};

// Of each series, the first points of `values`, which have a stride of `points` a row, from `skipped` on.
void copy_points(const std::vector<float>& values, std::size_t points, std::size_t skipped, std::size_t first_row,
                 std::size_t rows, Forecast& to) {
  const std::size_t width = to.quantiles;
  for (std::size_t row = 0; row < rows; ++row) {
    std::copy_n(values.data() + (row * points + skipped) * width, to.horizon * width,
                to.values.data() + (first_row + row) * to.horizon * width);
  }
}

Forecast empty_forecast(std::size_t series, std::size_t horizon, std::size_t quantiles) {
  return {series, horizon, quantiles, std::vector<float>(series * horizon * quantiles)};
}

}  // namespace

struct Forecaster::Impl {
  Impl(const Model& model, int batch) : feeder(model, batch) {}

  Feeder feeder;
  std::vector<float> values;  // of a batch, whole patches

  Forecast forecast(const std::vector<Series>& series, std::size_t horizon, std::size_t rollout);

  // Forecast so many patches of what the feeder's windows hold.
  void run(std::size_t patches, std::size_t rollout) {
    const std::size_t patch = feeder.info().patch, points = patches * patch;
    values.resize(feeder.rows() * points * feeder.quantiles());
    for (std::size_t done = 0; done < patches;) {
      rollout = std::min(rollout, patches - done);
      feeder.rescale();
      feeder.write(feeder.run_window(), done * patch, points, values);
      for (std::size_t more = 1; more < rollout; ++more) {
        feeder.write(feeder.run_missing(), (done + more) * patch, points, values);
      }
      done += rollout;
      for (std::vector<float>& window : feeder.windows) {
        const std::size_t gone = std::min(rollout * patch, window.size());
        window.erase(window.begin(), window.begin() + static_cast<std::ptrdiff_t>(gone));
        window.insert(window.end(), gone, kMissing);
      }
    }
  }
};

Forecaster::Forecaster(const Model& model, int batch) : impl_(std::make_unique<Impl>(model, batch)) {}
Forecaster::Forecaster(Forecaster&&) noexcept = default;
Forecaster& Forecaster::operator=(Forecaster&&) noexcept = default;
Forecaster::~Forecaster() = default;

const ForecastInfo& Forecaster::info() const noexcept { return impl_->feeder.info(); }

Forecast Forecaster::forecast(const std::vector<Series>& series, std::size_t horizon) {
  return impl_->forecast(series, horizon, info().horizon ? info().horizon : 1);
}

Forecast Forecaster::forecast(const std::vector<Series>& series, std::size_t horizon, std::size_t rollout) {
  if (!rollout) throw Error(ErrorCode::argument, "The rollout is 0; give 1 or more patches.");
  if (info().horizon) {
    throw Error(ErrorCode::argument, "This model takes all patches of a forecast from one window: give no rollout.");
  }
  return impl_->forecast(series, horizon, rollout);
}

Forecast Forecaster::Impl::forecast(const std::vector<Series>& series, std::size_t horizon, std::size_t rollout) {
  const ForecastInfo& info = feeder.info();
  const std::size_t patch = info.patch;
  check_horizon(horizon, info);
  for (std::size_t row = 0; row < series.size(); ++row) internal::check_finite(series[row], row);
  Forecast result = empty_forecast(series.size(), horizon, feeder.quantiles());
  const std::size_t patches = (horizon + patch - 1) / patch;
  for (std::size_t start = 0; start < series.size(); start += feeder.rows()) {
    const std::size_t here = std::min(feeder.rows(), series.size() - start);
    for (std::size_t row = 0; row < feeder.rows(); ++row) {
      feeder.begin(row, row < here ? series[start + row] : Series());
    }
    run(patches, rollout);
    copy_points(values, patches * patch, 0, start, here, result);
    for (std::size_t row = 0; row < here; ++row) {
      feeder.readings[row].finish(result.values.data() + (start + row) * horizon * result.quantiles, horizon, info);
    }
  }
  return result;
}

struct ForecastStream::Impl {
  Impl(const Model& model, const std::vector<Series>& all, double drift_limit)
      : feeder(model, static_cast<int>(all.size())), series(all), drift(drift_limit) {
    for (Series& one : series) {
      if (one.size() > kept()) one.erase(one.begin(), one.end() - static_cast<std::ptrdiff_t>(kept()));
    }
  }

  Feeder feeder;
  std::vector<Series> series;  // the newest points
  double drift;
  std::size_t refreshes = 0, pending = 0;
  std::size_t made = 0;        // patches that `outputs` holds
  std::vector<float> outputs;  // of the patches after the last one that ended: (patches, rows, quantiles * patch)

  void keep(const Logits& output) {
    outputs.insert(outputs.end(), output.data, output.data + output.rows * output.width);
    ++made;
  }

  void begin_patch(const Logits& output) {
    outputs.clear();
    made = pending = 0;
    keep(output);
  }

  // Points of each series: those of a window, and the one that the first of them is told from.
  std::size_t kept() const { return feeder.info().context + 1; }

  void refresh() {
    for (std::size_t row = 0; row < feeder.rows(); ++row) feeder.begin(row, series[row]);
    feeder.rescale();
    begin_patch(feeder.run_window());
  }

  bool is_due() const {
    if (drift == 0) return false;
    for (std::size_t row = 0; row < feeder.rows(); ++row) {
      if (Reading::of(series[row], feeder.info()).differenced != feeder.readings[row].differenced) return true;
      const Scaling now = Scaling::of(feeder.windows[row], feeder.info().scaler), &used = feeder.scalings[row];
      const double ratio = static_cast<double>(now.scale / used.scale);
      const double moved = static_cast<double>(std::abs(now.loc - used.loc));
      if (moved > drift * static_cast<double>(used.scale) || ratio > 1 + drift || ratio * (1 + drift) < 1) return true;
    }
    return false;
  }
};

ForecastStream::ForecastStream(const Model& model, const std::vector<Series>& series, double drift) {
  if (series.empty()) throw Error(ErrorCode::argument, "A stream needs at least one series. It may be empty.");
  if (!(drift >= 0)) {
    throw Error(ErrorCode::argument,
                "The drift is " + std::to_string(drift) + "; give a number above 0, or 0 for none.");
  }
  for (std::size_t row = 0; row < series.size(); ++row) internal::check_finite(series[row], row);
  impl_ = std::make_unique<Impl>(model, series, drift);
  impl_->refresh();
}
ForecastStream::ForecastStream(ForecastStream&&) noexcept = default;
ForecastStream& ForecastStream::operator=(ForecastStream&&) noexcept = default;
ForecastStream::~ForecastStream() = default;

const ForecastInfo& ForecastStream::info() const noexcept { return impl_->feeder.info(); }
std::size_t ForecastStream::refreshes() const noexcept { return impl_->refreshes; }
void ForecastStream::refresh() { impl_->refresh(); }

bool ForecastStream::push(Span<const float> points) {
  Feeder& feeder = impl_->feeder;
  if (points.size() != feeder.rows()) {
    throw Error(ErrorCode::argument, "push got " + std::to_string(points.size()) + " points for " +
                                         std::to_string(feeder.rows()) + " series. Give one for each.");
  }
  for (std::size_t row = 0; row < points.size(); ++row) internal::check_finite({&points[row], 1}, row);
  for (std::size_t row = 0; row < points.size(); ++row) {
    Series& series = impl_->series[row];
    if (series.size() == impl_->kept()) series.erase(series.begin());
    series.push_back(points[row]);
  }
  if (++impl_->pending < info().patch) return false;
  for (std::size_t row = 0; row < points.size(); ++row) {
    feeder.readings[row].fill(impl_->series[row], feeder.windows[row], info().context);
    feeder.readings[row].level = internal::last_value(impl_->series[row]);
  }
  if (impl_->is_due()) {
    impl_->refresh();
    ++impl_->refreshes;
  } else {
    impl_->begin_patch(feeder.run_newest(1));
  }
  return true;
}

Forecast ForecastStream::forecast(std::size_t horizon) {
  check_horizon(horizon, info());
  Impl& stream = *impl_;
  Feeder& feeder = stream.feeder;
  const std::size_t patch = info().patch, patches = (stream.pending + horizon + patch - 1) / patch;
  if (patches > stream.made) {
    const std::vector<std::uint8_t> states = feeder.save();
    stream.outputs.resize(stream.outputs.size() / stream.made);  // the first, which follows from the states
    for (stream.made = 1; stream.made < patches;) stream.keep(feeder.run_missing());
    feeder.load(states);
  }
  Forecast result = empty_forecast(feeder.rows(), horizon, feeder.quantiles());
  const std::size_t points = patches * patch, width = patch * feeder.quantiles();
  std::vector<float> values(feeder.rows() * points * feeder.quantiles());
  for (std::size_t at = 0; at < patches; ++at) {
    const float* const output = stream.outputs.data() + at * feeder.rows() * width;
    feeder.write({output, feeder.rows(), width}, at * patch, points, values);
  }
  for (std::size_t row = 0; row < feeder.rows(); ++row) {
    float* const first = values.data() + row * points * feeder.quantiles();
    feeder.readings[row].finish(first, stream.pending + horizon, info());
  }
  copy_points(values, points, stream.pending, 0, feeder.rows(), result);
  return result;
}

}  // namespace xlstm
