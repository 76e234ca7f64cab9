// xlstm-bench: latency of a step and speed of prefill, as JSON.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "arguments.h"

namespace {

constexpr char kHelp[] =
    "usage: xlstm-bench BUNDLE [options]\n"
    "Measure steps, or prompts, and print their latency in microseconds, as JSON.\n"
    "  --steps N          steps to measure (default 1000)\n"
    "  --warmup N         steps before them (default 100)\n"
    "  --prompt N         positions of a prompt; measures its prefill too\n"
    "  --prompts N        prompts to measure, after one more to warm up (default 10)\n"
    "  --batch N          sequences at a time (default 1, or the bundle's batch)\n";

using Clock = std::chrono::steady_clock;

double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// What a session is fed: `positions` for each row.
class Feed {
 public:
  Feed(const xlstm::ModelInfo& info, std::size_t batch, std::size_t positions)
      : tokens_(info.vocab_size ? batch * positions : 0),
        vectors_(info.vocab_size ? 0 : batch * positions * info.input_width, 0.1f),
        vocabulary_(info.vocab_size) {}

  void vary(std::uint32_t round) {
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      tokens_[i] = static_cast<std::int64_t>((std::size_t{round} * 31 + i * 7) % vocabulary_);
    }
  }
  void step(xlstm::Session& session) const { vocabulary_ ? session.step(tokens_) : session.step_vectors(vectors_); }
  void prefill(xlstm::Session& session) const {
    vocabulary_ ? session.prefill(tokens_) : session.prefill_vectors(vectors_);
  }

 private:
  std::vector<std::int64_t> tokens_;
  std::vector<float> vectors_;
  std::size_t vocabulary_;
};

double percentile(const std::vector<double>& sorted, double p) {
  return sorted[static_cast<std::size_t>(std::lround(p * static_cast<double>(sorted.size() - 1)))];
}

void run(const apps::Arguments& arguments) {
  const std::uint32_t steps = arguments.count("steps", 1000), warmup = arguments.count("warmup", 100);
  if (steps == 0) apps::fail("--steps is 0; give 1 or more to measure.");
  const auto model = arguments.load();
  const xlstm::ModelInfo& info = model.info();
  const auto batch = arguments.count("batch", static_cast<std::uint32_t>(std::max(info.batch, 1)));
  auto session = model.session(static_cast<int>(batch));

  Feed feed(info, batch, 1);
  std::vector<double> microseconds;
  microseconds.reserve(steps);
  for (std::uint32_t i = 0; i < warmup + steps; ++i) {
    feed.vary(i);
    const auto start = Clock::now();
    feed.step(session);
    if (i >= warmup) microseconds.push_back(microseconds_since(start));
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
  for (const auto& [name, p] : {std::pair{"p50", .5}, {"p90", .9}, {"p99", .99}, {"p99.9", .999}}) {
    std::printf("\"%s\": %.2f, ", name, percentile(microseconds, p));
  }
  std::printf("\"max\": %.2f}", microseconds.back());
  if (const std::uint32_t positions = arguments.count("prompt", 0)) {
    Feed prompt(info, batch, positions);
    std::vector<double> times;
    for (std::uint32_t i = 0; i <= std::max(arguments.count("prompts", 10), 1u); ++i) {
      prompt.vary(i);
      session.reset();
      const auto start = Clock::now();
      prompt.prefill(session);
      if (i > 0) times.push_back(microseconds_since(start));
    }
    std::sort(times.begin(), times.end());
    const double median = percentile(times, .5);
    std::printf(
        ",\n  \"prefill\": {\"positions\": %u, \"chunk\": %d, \"prompts\": %zu, \"tokens_per_second\": %.1f, "
        "\"microseconds\": {\"min\": %.2f, \"p50\": %.2f, \"max\": %.2f}}",
        positions, info.chunk, times.size(), 1e6 * batch * positions / median, times.front(), median, times.back());
  }
  std::printf("\n}\n");
}

}  // namespace

int main(int argc, char** argv) {
  return apps::application(argc, argv, kHelp, {"steps", "warmup", "batch", "prompt", "prompts"}, {}, run);
}
