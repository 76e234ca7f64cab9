// The sampling kernel's own source on the CUDA stand-in of ../cuda_on_cpu, against xlstm::Sampler.
// The argument is that source's path.
#include <cuda_runtime.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "check.h"
#include "runtime/device_sampler.cu"

namespace {

double random_sample(std::mt19937& random) {
  const double high = random() >> 5, low = random() >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

std::vector<float> make_logits(int vocabulary, std::mt19937& random, int kind) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(static_cast<std::size_t>(vocabulary));
  for (float& logit : logits) {
    logit = normal(random);
    if (kind == 1) logit = std::round(logit);               // many ties
    if (kind == 2) logit = random() % 2 ? 0.0f : -0.0f;     // all equal
    if (kind == 3 && random() % 3 == 0) logit = -INFINITY;  // masked tokens
    if (kind == 4) logit = -INFINITY;
    if (kind == 5 && random() % 50 == 0) logit = INFINITY;
    if (kind == 6 && random() % 50 == 0) logit = random() % 2 ? NAN : -NAN;  // a broken model
  }
  if (kind < 4) logits[0] = 1.0f;
  return logits;
}

constexpr int kBatch = 2;
constexpr int kKinds = 7;

struct Settings {
  double temperature;
  std::uint64_t top_k;
  double top_p;
};
constexpr Settings kSettings[] = {{0, 0, 1},    {1, 0, 1},   {0.7, 5, 1},   {1, 0, 0.8},
                                  {2, 40, 0.9}, {1, 1, 0.5}, {0.3, 0, 1e-6}};

// Whether the kernel draws what the host draws.
bool agrees(int vocabulary, int kind, const Settings& settings, std::mt19937& random) {
  std::vector<float> logits;
  for (int row = 0; row < kBatch; ++row) {
    const auto more = make_logits(vocabulary, random, kind);
    logits.insert(logits.end(), more.begin(), more.end());
  }
  const std::uint32_t seed = static_cast<std::uint32_t>(random());
  std::mt19937 stream(seed);
  std::vector<double> uniforms(kBatch);
  for (double& uniform : uniforms) uniform = random_sample(stream);
  std::vector<std::int64_t> tokens(kBatch, -1);
  std::vector<std::uint64_t> weights(logits.size());
  const xlstm::cuda::SampleArgs args{logits.data(), uniforms.data(),      tokens.data(),  weights.data(), kBatch,
                                     vocabulary,    settings.temperature, settings.top_k, settings.top_p};
  CHECK(xlstm::cuda::launch_sample(args, nullptr) == cudaSuccess);
  xlstm::Sampler sampler({settings.temperature, static_cast<std::size_t>(settings.top_k), settings.top_p, seed});
  const std::size_t width = static_cast<std::size_t>(vocabulary);
  bool same = true;
  for (std::size_t row = 0; row < kBatch; ++row) {
    same &= tokens[row] == sampler(xlstm::Span<const float>(logits.data() + row * width, width));
  }
  return same;
}

void draws_what_the_host_draws() {
  std::mt19937 random(1);
  for (const int vocabulary : {1, 300}) {
    for (int kind = 0; kind < kKinds; ++kind) {
      for (const Settings& settings : kSettings) {
        simulator::set_schedule(random() % 8);
        CHECK(agrees(vocabulary, kind, settings, random));
      }
    }
  }
  for (const Settings& settings : kSettings) CHECK(agrees(20000, 1, settings, random));  // several batches of a thread
}

// Left out in turn, in a process of its own, which the simulator may end: some order of the threads must go wrong.
void needs_every_barrier(const char* source) {
  std::ifstream file(source);
  std::string text;
  int barriers = 0;
  for (int line = 1; std::getline(file, text); ++line) {
    if (text.find("__syncthreads()") == std::string::npos) continue;
    ++barriers;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      CHECK(std::freopen("/dev/null", "w", stderr));
      simulator::break_barrier("device_sampler.cu", line);
      std::mt19937 random(2);
      for (std::uint64_t schedule = 0; schedule < 6; ++schedule) {
        simulator::set_schedule(schedule);
        for (const Settings& settings : kSettings) CHECK(agrees(300, 0, settings, random));
      }
      std::_Exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
      std::fprintf(stderr, "%s works without its barrier in line %d\n", source, line);
      std::exit(1);
    }
  }
  CHECK(barriers > 0);
}

}  // namespace

int main(int, char** arguments) {
  draws_what_the_host_draws();
  needs_every_barrier(arguments[1]);
}
