// The runtime's own cost: a step against a bare call of ONNX Runtime with the same bindings, in one run, by turns.
//   overhead BUNDLE [ROUNDS] [THREADS] [CUSTOM-OPS]      prints JSON
#include <algorithm>
#include <chrono>

#include "bare_session.h"

int main(int argc, char** argv) {  // NOLINT(bugprone-exception-escape): a measurement may end so
  CHECK(argc >= 2 && std::getenv("XLSTM_ONNXRUNTIME"));
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 2000, threads = argc > 3 ? std::atoi(argv[3]) : 1;
  auto options = test_options();
  options.threads = threads;
  const char* const custom_ops = argc > 4 ? argv[4] : nullptr;
  if (custom_ops) options.custom_ops = custom_ops;
  auto session = xlstm::Model::load(argv[1], options).session();
  BareSession bare(argv[1], threads, custom_ops);
  const auto microseconds = [](auto&& body) {
    const auto start = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  };
  std::vector<double> steps, runs, differences;
  for (int i = 0; i < rounds + 100; ++i) {
    const std::int64_t token = i % 97;
    double step = 0, run = 0;
    const auto take_step = [&] { step = microseconds([&] { session.step(token); }); };
    const auto take_run = [&] { run = microseconds([&] { bare.token = token, bare.run(); }); };
    if (i % 2) {
      take_step(), take_run();
    } else {
      take_run(), take_step();
    }
    if (i < 100) continue;
    steps.push_back(step);
    runs.push_back(run);
    differences.push_back(step - run);
  }
  const auto median = [](std::vector<double>& values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  };
  const double step = median(steps), run = median(runs), difference = median(differences);
  std::printf(
      "{\"rounds\": %d, \"threads\": %d, \"step_us\": %.2f, \"bare_run_us\": %.2f, \"difference_us\": %.2f, "
      "\"difference_percent\": %.2f, \"best_step_us\": %.2f, \"best_bare_run_us\": %.2f}\n",
      rounds, threads, step, run, difference, 100 * difference / run, steps.front(), runs.front());
}
