// xlstm-forecast: forecasts of columns of a CSV file on standard input, of all of it or as its lines arrive.
#include <xlstm/forecast.hpp>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "arguments.h"

namespace {

constexpr char kHelp[] =
    "usage: xlstm-forecast BUNDLE --column C,... --horizon N [options] < FILE.csv\n"
    "Forecast columns of a CSV file, whose first line names them; a missing value is an empty field or nan.\n"
    "  --column C,...     columns to forecast, each by itself\n"
    "  --horizon N        points to forecast\n"
    "  --quantiles Q,...  quantiles to print (default: all)\n"
    "  --context N        look at only so many of the newest points (default: all that the model takes)\n"
    "  --rollout K        of TiRex, take K patches from one window: faster, and another forecast (default 1)\n"
    "  --stream           forecast as lines arrive: whenever a patch of points is there, from what has been read\n"
    "  --drift X          with --stream: begin anew where a series has moved by X of its scale (default 0.25; 0: "
    "never)\n"
    "What is printed is CSV: with --stream it begins with the number of points that had been read.\n";

std::vector<std::string> split(const std::string& line, char delimiter) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (const char letter : line) {
    if (letter == '"') {
      quoted = !quoted;
    } else if (letter == delimiter && !quoted) {
      fields.emplace_back();
    } else if (letter != '\r') {
      fields.back() += letter;
    }
  }
  for (std::string& field : fields) {
    const std::size_t first = field.find_first_not_of(" \t"), last = field.find_last_not_of(" \t");
    field = first == std::string::npos ? "" : field.substr(first, last - first + 1);
  }
  return fields;
}

// The chosen columns of the lines on standard input.
class Lines {
 public:
  explicit Lines(const std::vector<std::string>& columns) : columns_(columns) {
    std::string line;
    if (!std::getline(std::cin, line))
      apps::fail("Standard input is empty. Give CSV whose first line names its columns.");
    if (line.rfind("\xEF\xBB\xBF", 0) == 0) line.erase(0, 3);
    for (const char candidate : {',', ';', '\t'}) {
      if (std::count(line.begin(), line.end(), candidate) > std::count(line.begin(), line.end(), delimiter_)) {
        delimiter_ = candidate;
      }
    }
    const std::vector<std::string> names = split(line, delimiter_);
    for (const std::string& column : columns) {
      const auto found = std::find(names.begin(), names.end(), column);
      if (found == names.end() || std::count(names.begin(), names.end(), column) > 1) {
        std::string message = "Standard input has ";
        message.append(found == names.end() ? "no column " : "several columns ").append(column);
        apps::fail(message.append(". Its first line is: ").append(line));
      }
      places_.push_back(static_cast<std::size_t>(found - names.begin()));
    }
  }

  // The next line's values; false at the end.
  bool read(std::vector<float>& values) {
    std::string line;
    do {
      if (!std::getline(std::cin, line)) return false;
      ++number_;
    } while (line.empty() || line == "\r");
    const std::vector<std::string> fields = split(line, delimiter_);
    values.clear();
    for (std::size_t i = 0; i < places_.size(); ++i) {
      values.push_back(places_[i] < fields.size() ? value(fields[places_[i]], columns_[i])
                                                  : std::numeric_limits<float>::quiet_NaN());
    }
    return true;
  }

 private:
  float value(std::string field, const std::string& column) const {
    std::string word = field;
    for (char& letter : word) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    for (const char* missing : {"", "nan", "na", "n/a", "null", "none", "-"}) {
      if (word == missing) return std::numeric_limits<float>::quiet_NaN();
    }
    if (delimiter_ != ',') std::replace(field.begin(), field.end(), ',', '.');
    const char* const first = field.data() + (field[0] == '+' ? 1 : 0);
    double number = 0;
    const auto [end, fault] = std::from_chars(first, field.data() + field.size(), number);
    if (fault != std::errc() || end != field.data() + field.size()) {
      apps::fail("Line " + std::to_string(number_) + ": " + column + " is " + field +
                 ", which is no number. Leave a missing value empty.");
    }
    return static_cast<float>(number);
  }

  std::vector<std::string> columns_;
  std::vector<std::size_t> places_;
  char delimiter_ = ',';
  std::size_t number_ = 1;
};

// Prints forecasts: the chosen quantiles of every series and step.
class Printer {
 public:
  Printer(const xlstm::ForecastInfo& info, const std::vector<std::string>& columns, const std::string& quantiles,
          bool counted)
      : columns_(columns), counted_(counted) {
    for (std::size_t q = 0; q < info.quantiles.size(); ++q) chosen_.push_back(q);
    if (!quantiles.empty()) {
      chosen_.clear();
      for (const std::string& level : split(quantiles, ',')) {
        const auto is_it = [&](double known) { return text(known) == text(std::strtod(level.c_str(), nullptr)); };
        const auto found = std::find_if(info.quantiles.begin(), info.quantiles.end(), is_it);
        if (found == info.quantiles.end())
          apps::fail(level + " is no quantile of this model. See what it prints without.");
        chosen_.push_back(static_cast<std::size_t>(found - info.quantiles.begin()));
      }
    }
    std::cout << (counted ? "points,series,step" : "series,step");
    for (const std::size_t q : chosen_) std::cout << ",q" << text(info.quantiles[q]);
    std::cout << '\n';
  }

  void print(const xlstm::Forecast& forecast, std::size_t points) const {
    for (std::size_t row = 0; row < forecast.series; ++row) {
      for (std::size_t step = 0; step < forecast.horizon; ++step) {
        if (counted_) std::cout << points << ',';
        std::cout << columns_[row] << ',' << step + 1;
        for (const std::size_t q : chosen_) std::cout << ',' << text(forecast.at(row, step, q));
        std::cout << '\n';
      }
    }
    std::cout << std::flush;
  }

 private:
  template <class Number>
  static std::string text(Number number) {  // the shortest that reads back to the same number
    char buffer[64];
    return {buffer, std::to_chars(buffer, buffer + sizeof(buffer), number).ptr};
  }

  std::vector<std::string> columns_;
  std::vector<std::size_t> chosen_;
  bool counted_;
};

void run(const apps::Arguments& arguments) {
  for (const char* needed : {"column", "horizon"}) {
    if (!arguments.has(needed)) apps::fail(std::string("--") + needed + " is missing. See --help.");
  }
  const std::vector<std::string> columns = split(arguments.text("column"), ',');
  const std::size_t horizon = arguments.count("horizon", 0), context = arguments.count("context", 0);
  const xlstm::Model model = arguments.load();
  Lines lines(columns);
  std::vector<float> values;
  std::vector<xlstm::Series> series(columns.size());
  if (arguments.has("stream")) {
    xlstm::ForecastStream stream(model, series, arguments.number("drift", 0.25));
    const Printer printer(stream.info(), columns, arguments.text("quantiles"), true);
    for (std::size_t points = 1; lines.read(values); ++points) {
      if (stream.push(values)) printer.print(stream.forecast(horizon), points);
    }
    return;
  }
  while (lines.read(values)) {
    for (std::size_t i = 0; i < series.size(); ++i) series[i].push_back(values[i]);
  }
  for (xlstm::Series& one : series) {
    if (context && one.size() > context) one.erase(one.begin(), one.end() - static_cast<std::ptrdiff_t>(context));
  }
  xlstm::Forecaster forecaster(model, model.info().batch ? model.info().batch : static_cast<int>(series.size()));
  const Printer printer(forecaster.info(), columns, arguments.text("quantiles"), false);
  printer.print(arguments.has("rollout") ? forecaster.forecast(series, horizon, arguments.count("rollout", 1))
                                         : forecaster.forecast(series, horizon),
                0);
}

}  // namespace

int main(int argc, char** argv) {
  return apps::application(argc, argv, kHelp, {"column", "horizon", "quantiles", "context", "rollout", "drift"},
                           {"stream"}, run);
}
