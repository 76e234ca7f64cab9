// xlstm-pole: a control loop at 1 kHz. A policy that was exported with its state keeps a pole up on a cart, which is
// simulated here; how long each call of the policy takes is printed as JSON.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <fstream>

#include "arguments.h"
#include "percentiles.h"

namespace {

constexpr char kHelp[] =
    "usage: xlstm-pole BUNDLE [options]\n"
    "Balance a simulated pole with the policy of models/examples/pole, one call a millisecond of simulated time, and\n"
    "print as JSON how long the pole stood and what the calls took, in microseconds.\n"
    "  --steps N          milliseconds to simulate (default 10000)\n"
    "  --warmup N         calls before them, after which the state is reset (default 100)\n"
    "  --trajectory FILE  write the force and the state after each step, five doubles: force, cart's position and\n"
    "                     velocity, pole's angle and velocity\n"
    "  --latencies FILE   write what each call took, in microseconds, as doubles\n"
    "One thread is used where --threads does not say otherwise.\n";

// The plant of models/examples/pole/plant.py, operation for operation: this file is compiled without contraction to
// fused operations, so that the trajectory is Python's to the last bit.
struct Plant {
  static constexpr double kStep = 0.001, kGravity = 9.8, kCartMass = 1.0, kPoleMass = 0.1, kHalfLength = 0.15;
  static constexpr double kTotalMass = kCartMass + kPoleMass, kPoleMoment = kPoleMass * kHalfLength;
  static constexpr double kTrack = 2.4, kFallen = 0.5, kPushForce = 4.0;
  static constexpr std::uint32_t kPushSteps = 100, kPushEvery = 2000;

  double position = 0.2, velocity = 0.0, angle = 0.1, rate = 0.0;  // m, m/s, rad, rad/s

  // Taylor polynomials; their errors are below 2e-11 up to kFallen.
  static double sine(double angle) {
    const double a = angle * angle;
    return angle * (1 - a / 6 * (1 - a / 20 * (1 - a / 42 * (1 - a / 72))));
  }
  static double cosine(double angle) {
    const double a = angle * angle;
    return 1 - a / 2 * (1 - a / 12 * (1 - a / 30 * (1 - a / 56 * (1 - a / 90))));
  }

  // 1 ms, by the semi-implicit Euler method; the force [N] acts on the cart.
  void step(double force) {
    const double sin = sine(angle), cos = cosine(angle);
    const double pull = (force + kPoleMoment * rate * rate * sin) / kTotalMass;
    const double turn =
        (kGravity * sin - cos * pull) / (kHalfLength * (4.0 / 3.0 - kPoleMass * cos * cos / kTotalMass));
    velocity = velocity + kStep * (pull - kPoleMoment * turn * cos / kTotalMass);
    rate = rate + kStep * turn;
    position = position + kStep * velocity;
    angle = angle + kStep * rate;
  }

  // The force [N] from outside in step `index`.
  static double push(std::uint32_t index) {
    if (index % kPushEvery < kPushEvery - kPushSteps) return 0.0;
    return index / kPushEvery % 2 == 0 ? kPushForce : -kPushForce;
  }

  bool up() const { return -kTrack < position && position < kTrack && -kFallen < angle && angle < kFallen; }
};

// The policy's tensors: observations (batch, 2) in, forces (batch, 1) out, with any number of positions or none.
void check_policy(const xlstm::ModelInfo& info) {
  const auto is_vector = [](const xlstm::TensorInfo& tensor, std::int64_t width) {
    return tensor.dtype == "float32" && tensor.shape.size() >= 2 && tensor.shape.back() == width &&
           tensor.shape.size() == (tensor.time_axis < 0 ? 2 : 3);
  };
  if (info.inputs.size() == 1 && info.outputs.size() == 1 && is_vector(info.inputs[0], 2) &&
      is_vector(info.outputs[0], 1)) {
    return;
  }
  apps::fail("This bundle is no policy for the pole: it must take one float32 (batch, 2) and give one (batch, 1).");
}

void run(const apps::Arguments& arguments) {
  using Clock = std::chrono::steady_clock;
  const std::uint32_t steps = arguments.count("steps", 10000), warmup = arguments.count("warmup", 100);
  if (steps == 0) apps::fail("--steps is 0; give 1 or more to simulate.");
  const auto model = arguments.load(1);
  check_policy(model.info());
  auto session = model.session();
  const std::string& name = model.info().inputs[0].name;
  std::ofstream trajectory;
  if (const std::string path = arguments.text("trajectory"); !path.empty()) {
    trajectory.open(path, std::ios::binary);
    if (!trajectory) apps::fail("--trajectory: " + path + " cannot be written.");
  }

  std::array<float, 2> seen{};
  for (std::uint32_t i = 0; i < warmup; ++i) session.run({{name, seen}});
  session.reset();
  Plant plant;
  std::vector<double> microseconds(steps);
  std::uint32_t stood = 0;
  for (std::uint32_t i = 0; i < steps; ++i) {
    seen = {static_cast<float>(plant.position), static_cast<float>(plant.angle)};
    const auto start = Clock::now();
    const float force = session.run({{name, seen}})[0].data[0];
    microseconds[i] = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
    plant.step(force + Plant::push(i));
    if (stood == i && plant.up()) ++stood;
    const double line[] = {force, plant.position, plant.velocity, plant.angle, plant.rate};
    if (trajectory.is_open()) trajectory.write(reinterpret_cast<const char*>(line), sizeof line);
  }
  if (trajectory.is_open() && !trajectory.flush()) apps::fail("--trajectory: the file could not be written whole.");

  if (const std::string path = arguments.text("latencies"); !path.empty()) {
    std::ofstream latencies(path, std::ios::binary);
    const auto bytes = static_cast<std::streamsize>(steps * sizeof(double));
    if (!latencies.write(reinterpret_cast<const char*>(microseconds.data()), bytes).flush()) {
      apps::fail("--latencies: " + path + " cannot be written.");
    }
  }
  std::sort(microseconds.begin(), microseconds.end());
  const auto late = microseconds.end() - std::upper_bound(microseconds.begin(), microseconds.end(), 1000.0);
  std::printf("{\n  \"backend\": \"%s\",\n  \"device\": \"%s\",\n  \"steps\": %u,\n  \"stood\": %u,\n",
              model.info().backend.c_str(), model.info().device.c_str(), steps, stood);
  std::printf("  \"later_than_1_ms\": %zu,\n  \"microseconds\": {\"min\": %.2f, ", static_cast<std::size_t>(late),
              microseconds.front());
  apps::print_percentiles(microseconds);
  std::printf("\n}\n");
}

}  // namespace

int main(int argc, char** argv) {
  return apps::application(argc, argv, kHelp, {"steps", "warmup", "trajectory", "latencies"}, {}, run);
}
