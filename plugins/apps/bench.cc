// xlstm-bench: latency of a step, as JSON.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <numeric>

#include "arguments.h"

namespace {

constexpr char kHelp[] =
    "usage: xlstm-bench BUNDLE [options]\n"
    "Measure steps and print their latency in microseconds, as JSON.\n"
    "  --steps N          (default 1000)\n"
    "  --warmup N         steps before (default 100)\n"
    "  --batch N          (default 1, or the bundle's)\n";

double percentile(const std::vector<double>& sorted, double p) {
  return sorted[static_cast<std::size_t>(p * static_cast<double>(sorted.size() - 1) + 0.5)];
}

int run(int argc, char** argv) {
  auto names = apps::Arguments::model_names();
  names.insert({"steps", "warmup", "batch"});
  const apps::Arguments arguments(argc, argv, names, {"help"});
  if (arguments.has("help") || arguments.positional.size() != 1) {
    std::cout << kHelp << apps::model_help;
    return arguments.has("help") ? 0 : 2;
  }
  const std::uint32_t steps = arguments.count("steps", 1000), warmup = arguments.count("warmup", 100);
  if (!steps) apps::Arguments::fail("--steps is 0: there is nothing to measure.");
  const auto model = xlstm::Model::load(arguments.positional[0], arguments.model_options());
  const xlstm::ModelInfo& info = model.info();
  const auto batch = arguments.count("batch", static_cast<std::uint32_t>(std::max(info.batch, 1)));
  auto session = model.session(static_cast<int>(batch));

  std::vector<std::int64_t> tokens(batch);
  const std::vector<float> vectors(batch * info.input_width, 0.1f);
  std::vector<double> microseconds;
  microseconds.reserve(steps);
  for (std::uint32_t i = 0; i < warmup + steps; ++i) {
    for (std::uint32_t row = 0; row < batch && info.vocab_size; ++row)
      tokens[row] = static_cast<std::int64_t>((i * 31 + row * 7) % info.vocab_size);
    const auto start = std::chrono::steady_clock::now();
    info.vocab_size ? session.step(tokens) : session.step_vectors(vectors);
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
    if (i >= warmup) microseconds.push_back(time.count());
  }
  const double mean = std::accumulate(microseconds.begin(), microseconds.end(), 0.0) / steps;
  std::sort(microseconds.begin(), microseconds.end());
  std::printf("{\n  \"library\": \"%s\",\n  \"backend\": \"%s\",\n  \"device\": \"%s\",\n  \"cuda_graph\": %s,\n",
              xlstm::version(), info.backend.c_str(), info.device.c_str(), info.cuda_graph ? "true" : "false");
  std::printf(
      "  \"family\": \"%s\",\n  \"dtype\": \"%s\",\n  \"batch\": %u,\n  \"state_bytes\": %zu,\n  \"steps\": %u,\n",
      info.family.c_str(), info.dtype.c_str(), batch, info.state_bytes * batch, steps);
  std::printf("  \"tokens_per_second\": %.1f,\n  \"microseconds\": {\"mean\": %.2f, \"min\": %.2f, ",
              batch * 1e6 / mean, mean, microseconds.front());
  for (const auto& [name, p] : {std::pair{"p50", .5}, {"p90", .9}, {"p99", .99}, {"p99.9", .999}})
    std::printf("\"%s\": %.2f, ", name, percentile(microseconds, p));
  std::printf("\"max\": %.2f}\n}\n", microseconds.back());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const xlstm::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
