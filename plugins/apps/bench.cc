// xlstm-bench: latency of a step, or of a window, and speed of prefill, as JSON.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <numeric>
#include <random>

#include "arguments.h"
#include "percentiles.h"

namespace {

constexpr char kHelp[] =
    "usage: xlstm-bench BUNDLE [options]\n"
    "Measure steps, prompts or windows of random inputs, and print their latency in microseconds, as JSON.\n"
    "  --steps N          steps to measure (default 1000); of mode window: windows\n"
    "  --warmup N         steps before them (default 100)\n"
    "  --positions N      positions of a window, where they are open (default 256)\n"
    "  --prompt N         positions of a prompt; measures its prefill too\n"
    "  --prompts N        prompts to measure, after one more to warm up (default 10)\n"
    "  --batch N          sequences at a time (default 1, or the bundle's batch)\n";

using Clock = std::chrono::steady_clock;

double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// What a session is fed: `positions` for each row. Floats are normally distributed; integers that are no tokens, of
// which nobody says what they may be, are zeros.
class Feed {
 public:
  Feed(const xlstm::ModelInfo& info, std::size_t batch, std::size_t positions) : info_(info) {
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    for (const xlstm::TensorInfo& input : info.inputs) {
      std::size_t values = batch;
      for (std::size_t axis = 1; axis < input.shape.size(); ++axis) {
        values *= static_cast<int>(axis) == input.time_axis ? positions : static_cast<std::size_t>(input.shape[axis]);
      }
      if (input.dtype == "float32") {
        for (float& value : add(floats_, input.name, values)) value = normal(random);
      } else if (input.dtype == "int64") {
        add(tokens_, input.name, values);
      } else {
        add(integers_, input.name, values);
      }
    }
  }

  // Other tokens, where it is a language model.
  void vary(std::uint32_t round) {
    if (!info_.vocab_size) return;
    std::vector<std::int64_t>& tokens = tokens_.front();
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<std::int64_t>((std::size_t{round} * 31 + i * 7) % info_.vocab_size);
    }
  }

  void pass(xlstm::Session& session) const { session.run(inputs_); }
  void prefill(xlstm::Session& session) const {
    if (info_.vocab_size) {
      session.prefill(tokens_.front());
    } else if (info_.input_width) {
      session.prefill_vectors(floats_.front());
    } else {
      pass(session);
    }
  }

 private:
  template <class T>
  std::vector<T>& add(std::deque<std::vector<T>>& store, const std::string& name, std::size_t values) {
    std::vector<T>& added = store.emplace_back(values);
    inputs_.emplace_back(name, xlstm::Span<const T>(added));
    return added;
  }

  const xlstm::ModelInfo& info_;
  std::deque<std::vector<float>> floats_;  // which stay where they are
  std::deque<std::vector<std::int64_t>> tokens_;
  std::deque<std::vector<std::int32_t>> integers_;
  std::vector<xlstm::Input> inputs_;
};

void run(const apps::Arguments& arguments) {
  const std::uint32_t steps = arguments.count("steps", 1000), warmup = arguments.count("warmup", 100);
  if (steps == 0) apps::fail("--steps is 0; give 1 or more to measure.");
  const auto model = arguments.load();
  const xlstm::ModelInfo& info = model.info();
  const auto batch = arguments.count("batch", static_cast<std::uint32_t>(std::max(info.batch, 1)));
  auto session = model.session(static_cast<int>(batch));

  const bool window = info.mode == "window";
  const bool timed = std::any_of(info.inputs.begin(), info.inputs.end(), [](auto& one) { return one.time_axis >= 0; });
  const std::uint32_t positions = window && timed ? std::max(arguments.count("positions", 256), 1u) : 1;
  Feed feed(info, batch, positions);
  std::vector<double> microseconds;
  microseconds.reserve(steps);
  for (std::uint32_t i = 0; i < warmup + steps; ++i) {
    feed.vary(i);
    const auto start = Clock::now();
    feed.pass(session);
    if (i >= warmup) microseconds.push_back(microseconds_since(start));
  }
  const double mean = std::accumulate(microseconds.begin(), microseconds.end(), 0.0) / steps;
  std::sort(microseconds.begin(), microseconds.end());
  std::printf("{\n  \"library\": \"%s\",\n  \"backend\": \"%s\",\n  \"device\": \"%s\",\n  \"cuda_graph\": %s,\n",
              xlstm::version(), info.backend.c_str(), info.device.c_str(), info.cuda_graph ? "true" : "false");
  std::printf(
      "  \"family\": \"%s\",\n  \"dtype\": \"%s\",\n  \"mode\": \"%s\",\n  \"batch\": %u,\n  \"state_bytes\": %zu,\n  "
      "\"steps\": %u,\n  \"positions\": %u,\n",
      info.family.c_str(), info.dtype.c_str(), info.mode.c_str(), batch, info.state_bytes * batch, steps, positions);
  std::printf("  \"tokens_per_second\": %.1f,\n  \"microseconds\": {\"mean\": %.2f, \"min\": %.2f, ",
              1e6 * batch * positions / mean, mean, microseconds.front());
  apps::print_percentiles(microseconds);
  if (const std::uint32_t length = window || !(timed || info.input_width) ? 0 : arguments.count("prompt", 0)) {
    Feed prompt(info, batch, length);
    std::vector<double> times;
    for (std::uint32_t i = 0; i <= std::max(arguments.count("prompts", 10), 1u); ++i) {
      prompt.vary(i);
      session.reset();
      const auto start = Clock::now();
      prompt.prefill(session);
      if (i > 0) times.push_back(microseconds_since(start));
    }
    std::sort(times.begin(), times.end());
    const double median = apps::percentile(times, .5);
    std::printf(
        ",\n  \"prefill\": {\"positions\": %u, \"chunk\": %d, \"prompts\": %zu, \"tokens_per_second\": %.1f, "
        "\"microseconds\": {\"min\": %.2f, \"p50\": %.2f, \"max\": %.2f}}",
        length, info.chunk, times.size(), 1e6 * batch * length / median, times.front(), median, times.back());
  }
  std::printf("\n}\n");
}

}  // namespace

int main(int argc, char** argv) {
  return apps::application(argc, argv, kHelp, {"steps", "warmup", "batch", "positions", "prompt", "prompts"}, {}, run);
}
