#include "simulator.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// The bounds of the linker section that holds every __shared__ variable.
extern char __start_cuda_shared[] __attribute__((weak));
extern char __stop_cuda_shared[] __attribute__((weak));

namespace simulator {

Index thread_index, block_index;

namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 128 * 1024;
constexpr unsigned char kPoison = 0xff;  // a NaN in every floating-point type

struct Place {
  const char* file = nullptr;
  int line = 0;
  bool operator==(const Place& other) const { return line == other.line && !std::strcmp(file, other.file); }
};

enum class State { kReady, kAtBarrier, kAtShuffle, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state = State::kReady;
  Place place;
  void* fake_stack = nullptr;  // of the address sanitizer
};

struct Warp {
  unsigned arrived = 0, generation = 0;
  Place place;
  uint32_t slots[2][kWarp];  // by parity of the generation: a lane may be one shuffle ahead of another, not two
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  ucontext_t scheduler;
  const std::function<void()>* kernel;
  unsigned running = 0;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
};

Block block;
std::unique_ptr<char[]> dynamic_memory;
uint64_t schedule_seed = 0;
std::string broken_file;
int broken_line = 0;

[[noreturn]] void fail(const std::string& message) {
  std::fprintf(stderr, "simulator: %s (block %u)\n", message.c_str(), block_index.x);
  std::abort();
}

std::string describe(const Place& place) { return std::string(place.file) + ":" + std::to_string(place.line); }

void switch_to_scheduler(bool finished) {
  Fiber& fiber = block.fibers[block.running];
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(finished ? nullptr : &fiber.fake_stack, block.scheduler_stack,
                                 block.scheduler_stack_bytes);
#else
  (void)finished;
#endif
  swapcontext(&fiber.context, &block.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

void run_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_stack_bytes);
#endif
  (*block.kernel)();
  block.fibers[block.running].state = State::kDone;
  switch_to_scheduler(true);
}

void resume(unsigned index) {
  Fiber& fiber = block.fibers[index];
  block.running = index;
  thread_index = {index, 0, 0};
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&block.scheduler_fake_stack, fiber.stack.get(), kStackBytes);
#endif
  swapcontext(&block.scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(block.scheduler_fake_stack, nullptr, nullptr);
#endif
}

// Opens the barrier when every thread waits at it; says what is wrong when nobody can go on.
void open_barrier() {
  const Place& place = block.fibers[0].place;
  for (size_t t = 0; t < block.fibers.size(); ++t) {
    const Fiber& fiber = block.fibers[t];
    if (fiber.state == State::kAtShuffle) fail("some lanes of a warp never reach the shuffle at " + describe(fiber.place));
    if (fiber.state == State::kDone || !(fiber.place == place)) {
      fail("thread " + std::to_string(t) + " does not reach the barrier that others wait at");
    }
  }
  for (Fiber& fiber : block.fibers) fiber.state = State::kReady;
}

// The section also holds the address sanitizer's red zones between the variables.
__attribute__((no_sanitize("address"))) void poison_static_shared() {
  for (volatile char* byte = __start_cuda_shared; byte < __stop_cuda_shared; ++byte) *byte = static_cast<char>(kPoison);
}

void run_block() {
  poison_static_shared();
  std::vector<unsigned> order(block.fibers.size());
  std::iota(order.begin(), order.end(), 0u);
  if (schedule_seed == 1 || schedule_seed == 3) std::reverse(order.begin(), order.end());
  const bool by_warp = schedule_seed == 2 || schedule_seed == 3;
  std::mt19937_64 random(schedule_seed);
  for (;;) {
    if (schedule_seed > 3) std::shuffle(order.begin(), order.end(), random);
    bool progress = false, waiting = false, moved = false;
    for (size_t turn = 0; turn < order.size(); ++turn) {
      if (block.fibers[order[turn]].state == State::kReady) {
        resume(order[turn]);
        progress = true;
        moved = true;
      }
      const bool end_of_warp = turn % kWarp == kWarp - 1;
      if (end_of_warp && by_warp && moved) turn -= kWarp;  // the warp again, until it can go no further
      if (end_of_warp) moved = false;
    }
    for (const Fiber& fiber : block.fibers) waiting |= fiber.state != State::kDone;
    if (!waiting) return;
    if (!progress) open_barrier();
  }
}

}  // namespace

void set_schedule(uint64_t seed) { schedule_seed = seed; }

void break_barrier(const char* file, int line) {
  broken_file = file;
  broken_line = line;
}

void* dynamic_shared() { return dynamic_memory.get(); }

void launch(unsigned blocks, unsigned threads, size_t dynamic_shared_bytes, const std::function<void()>& kernel) {
  if (threads % kWarp != 0) fail("a block of " + std::to_string(threads) + " threads is not whole warps");
  for (unsigned index = 0; index < blocks; ++index) {
    block_index = {index, 0, 0};
    dynamic_memory.reset(dynamic_shared_bytes ? new char[dynamic_shared_bytes] : nullptr);
    if (dynamic_memory) std::memset(dynamic_memory.get(), kPoison, dynamic_shared_bytes);
    block.fibers.resize(threads);
    block.warps.assign(threads / kWarp, Warp{});
    block.kernel = &kernel;
    for (Fiber& fiber : block.fibers) {
      if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
      fiber.state = State::kReady;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, run_fiber, 0);
    }
    run_block();
  }
}

void barrier(const char* file, int line) {
  const size_t length = std::strlen(file);
  if (line == broken_line && length >= broken_file.size() &&
      !std::strcmp(file + length - broken_file.size(), broken_file.c_str())) {
    return;
  }
  Fiber& fiber = block.fibers[block.running];
  fiber.state = State::kAtBarrier;
  fiber.place = {file, line};
  switch_to_scheduler(false);
}

uint32_t exchange(uint32_t value, int offset, unsigned mask, const char* file, int line) {
  if (mask != 0xffffffffu) fail("a shuffle among part of a warp");
  const unsigned self = block.running, lane = self % kWarp;
  Warp& warp = block.warps[self / kWarp];
  const Place place{file, line};
  if (warp.arrived == 0) warp.place = place;
  if (!(warp.place == place)) fail("lanes of one warp at different shuffles: " + describe(place));
  const unsigned generation = warp.generation;
  warp.slots[generation % 2][lane] = value;
  if (++warp.arrived == kWarp) {
    warp.arrived = 0;
    ++warp.generation;
    for (unsigned other = self - lane; other < self - lane + kWarp; ++other) {
      if (block.fibers[other].state == State::kAtShuffle) block.fibers[other].state = State::kReady;
    }
  } else {
    block.fibers[self].state = State::kAtShuffle;
    block.fibers[self].place = place;
    switch_to_scheduler(false);
  }
  return warp.slots[generation % 2][lane ^ static_cast<unsigned>(offset)];
}

}  // namespace simulator
