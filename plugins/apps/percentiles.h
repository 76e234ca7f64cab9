// What the applications say of times.
#pragma once

#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

namespace apps {

inline double percentile(const std::vector<double>& sorted, double p) {
  return sorted[static_cast<std::size_t>(std::lround(p * static_cast<double>(sorted.size() - 1)))];
}

// `"p50": 1.23, ..., "max": 4.56}`: the end of a JSON object.
inline void print_percentiles(const std::vector<double>& sorted) {
  for (const auto& [name, p] : {std::pair{"p50", .5}, {"p90", .9}, {"p99", .99}, {"p99.9", .999}}) {
    std::printf("\"%s\": %.2f, ", name, percentile(sorted, p));
  }
  std::printf("\"max\": %.2f}", sorted.back());
}

}  // namespace apps
