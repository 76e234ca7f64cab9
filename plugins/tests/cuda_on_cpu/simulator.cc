#include "simulator.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "device_memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// The bounds of the linker section that holds every __shared__ variable.
extern char __start_cuda_shared[] __attribute__((weak));
extern char __stop_cuda_shared[] __attribute__((weak));

namespace simulator {

Index thread_index, block_index;
Device device;

namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kSharedWithoutAsking = 48 * 1024;
constexpr unsigned kClusterWithoutAsking = 8;
constexpr size_t kSharedAlignment = 128;
constexpr unsigned char kPoison = 0xff;  // a NaN in every floating-point type

struct Place {
  const char* file = nullptr;
  int line = 0;
  bool operator==(const Place& other) const { return line == other.line && !std::strcmp(file, other.file); }
};

enum class State { kReady, kSpinning, kWaiting, kAtBarrier, kAtCollective, kDone };

struct Copy {
  void* to;
  const void* from;  // null: zeros
  size_t bytes;
  unsigned group;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state = State::kReady;
  Place place;
  const std::function<bool()>* may_go_on = nullptr;  // what a waiting fiber waits for
  size_t cluster_arrivals = 0;
  bool must_wait = false;      // it has arrived, and not yet waited
  void* fake_stack = nullptr;  // of the address sanitizer
  std::vector<Copy> copies;    // that it has started and not yet waited for
  unsigned groups = 0;         // of copies, complete
};

struct Warp {
  unsigned arrived = 0;
  Place place;
  void* lanes[kWarp];
};

struct FreeShared {
  void operator()(char* memory) const { ::operator delete[](memory, std::align_val_t{kSharedAlignment}); }
};

struct Block {
  Index index{};
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::unique_ptr<char[], FreeShared> dynamic_memory;
  size_t dynamic_bytes = 0;
  std::vector<char> static_memory;  // while another block runs
};

std::vector<Block> blocks;
Block* block;                         // the running one
unsigned running = 0;                 // its running fiber
std::vector<size_t> cluster_arrived;  // threads of the cluster that have arrived for the first, second, ... time
const std::function<void()>* running_kernel;
ucontext_t scheduler;
void* scheduler_fake_stack = nullptr;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;

std::map<std::pair<int, const void*>, size_t> allowed_shared;  // by device and kernel
std::set<std::pair<int, const void*>> allowed_large_clusters;
uint64_t schedule_seed = 0;
std::string broken_file;
int broken_line = 0;

std::string describe(const Place& place) { return std::string(place.file) + ":" + std::to_string(place.line); }

bool is_broken(const char* file, int line) {
  const size_t length = std::strlen(file);
  return line == broken_line && length >= broken_file.size() &&
         !std::strcmp(file + length - broken_file.size(), broken_file.c_str());
}

void switch_to_scheduler(bool finished) {
  Fiber& fiber = block->fibers[running];
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(finished ? nullptr : &fiber.fake_stack, scheduler_stack, scheduler_stack_bytes);
#else
  (void)finished;
#endif
  swapcontext(&fiber.context, &scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

// Until the scheduler resumes the running fiber.
void wait(State state, const Place& place) {
  Fiber& fiber = block->fibers[running];
  fiber.state = state;
  fiber.place = place;
  switch_to_scheduler(false);
}

void run_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  (*running_kernel)();
  block->fibers[running].state = State::kDone;
  switch_to_scheduler(true);
}

void resume(unsigned index) {
  Fiber& fiber = block->fibers[index];
  running = index;
  thread_index = {index, 0, 0};
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber.stack.get(), kStackBytes);
#endif
  swapcontext(&scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

// Opens the barrier when every thread waits at it; says what is wrong when nobody can go on.
void open_barrier() {
  const Place& place = block->fibers[0].place;
  for (size_t t = 0; t < block->fibers.size(); ++t) {
    const Fiber& fiber = block->fibers[t];
    if (fiber.state == State::kAtCollective) {
      fail("some lanes of a warp never reach the collective at " + describe(fiber.place));
    }
    if (fiber.state == State::kDone || !(fiber.place == place)) {
      fail("thread " + std::to_string(t) + " does not reach the barrier that others wait at");
    }
  }
  for (Fiber& fiber : block->fibers) fiber.state = State::kReady;
}

// The section of the __shared__ variables also holds the address sanitizer's red zones between them.
__attribute__((no_sanitize("address"))) void copy_static_shared(volatile char* to, const volatile char* from) {
  const ptrdiff_t bytes = __stop_cuda_shared - __start_cuda_shared;
  for (ptrdiff_t i = 0; i < bytes; ++i) to[i] = from[i];
}

void enter(Block& next) {
  if (block) copy_static_shared(block->static_memory.data(), __start_cuda_shared);
  block = &next;
  block_index = next.index;
  copy_static_shared(__start_cuda_shared, next.static_memory.data());
}

bool is_done(const Block& b) {
  return std::all_of(b.fibers.begin(), b.fibers.end(), [](const Fiber& fiber) { return fiber.state == State::kDone; });
}

// One turn of every thread of the block that can go on, or the opening of its barrier. False if all it can do is spin.
bool run_round(std::mt19937_64& random) {
  std::vector<unsigned> order(block->fibers.size());
  std::iota(order.begin(), order.end(), 0u);
  if (schedule_seed == 1 || schedule_seed == 3) std::reverse(order.begin(), order.end());
  const bool by_warp = schedule_seed == 2 || schedule_seed == 3;
  if (schedule_seed > 3) std::shuffle(order.begin(), order.end(), random);
  const bool dawdling = schedule_seed > 3 && blocks.size() > 1;
  bool spinning = false, progress = false, moved = false;
  for (Fiber& fiber : block->fibers) {
    if (fiber.state == State::kSpinning) fiber.state = State::kReady;
    if (fiber.state == State::kWaiting && (*fiber.may_go_on)()) fiber.state = State::kReady;
    spinning |= fiber.state == State::kWaiting;
  }
  for (size_t turn = 0; turn < order.size(); ++turn) {
    Fiber& fiber = block->fibers[order[turn]];
    if (fiber.state == State::kReady && dawdling && random() % 2) {
      progress = true;  // in a later round
    } else if (fiber.state == State::kReady) {
      resume(order[turn]);
      moved = true;
      if (fiber.state == State::kSpinning) {
        spinning = true;
      } else {
        progress = true;
      }
    }
    const bool end_of_warp = turn % kWarp == kWarp - 1;
    if (end_of_warp && by_warp && moved) turn -= kWarp;  // the warp again, until it can go no further
    if (end_of_warp) moved = false;
  }
  if (progress || spinning || is_done(*block)) return progress;
  open_barrier();
  return true;
}

void run_blocks() {
  std::mt19937_64 random(schedule_seed);
  const bool far = schedule_seed == 2 || schedule_seed == 3;
  for (bool left = true; left;) {
    bool progress = left = false;
    for (Block& next : blocks) {
      if (is_done(next)) continue;
      left = true;
      if (blocks.size() > 1 || block != &next) enter(next);
      bool moved = run_round(random);
      progress |= moved;
      while (moved && (far || blocks.size() == 1) && !is_done(next)) moved = run_round(random);
      if (is_done(next)) next.dynamic_memory.reset();
    }
    progress |= complete_stores(random, schedule_seed <= 3);
    if (left && !progress) fail("every thread that is left waits for what nobody does");
  }
  end_stores();
}

void prepare(Block& b, unsigned index, const Launch& launch) {
  b.index = {index % launch.grid.x, index / launch.grid.x % launch.grid.y, index / launch.grid.x / launch.grid.y};
  b.dynamic_bytes = launch.dynamic_shared_bytes;
  b.dynamic_memory.reset();
  if (launch.dynamic_shared_bytes) {
    b.dynamic_memory.reset(new (std::align_val_t{kSharedAlignment}) char[launch.dynamic_shared_bytes]);
    std::memset(b.dynamic_memory.get(), kPoison, launch.dynamic_shared_bytes);
  }
  b.static_memory.assign(static_cast<size_t>(__stop_cuda_shared - __start_cuda_shared), static_cast<char>(kPoison));
  b.fibers.resize(launch.threads);
  b.warps.assign(launch.threads / kWarp, Warp{});
  for (Fiber& fiber : b.fibers) {
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    fiber.state = State::kReady;
    fiber.cluster_arrivals = 0;
    fiber.must_wait = false;
    fiber.copies.clear();
    fiber.groups = 0;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
  }
}

}  // namespace

void fail(const std::string& message) {
  std::fprintf(stderr, "simulator: %s (block %u, %u, %u)\n", message.c_str(), block_index.x, block_index.y,
               block_index.z);
  std::abort();
}

void set_schedule(uint64_t seed) { schedule_seed = seed; }

void break_barrier(const char* file, int line) {
  broken_file = file;
  broken_line = line;
}

void allow_dynamic_shared(const void* kernel, size_t bytes) {
  if (bytes > device.shared_limit) fail("a kernel asks for more shared memory than there is");
  size_t& allowed = allowed_shared[{device.number, kernel}];
  if (bytes < allowed) fail("a kernel gives back shared memory that another thread's launch may have asked for");
  allowed = bytes;
}

void allow_large_clusters(const void* kernel) { allowed_large_clusters.insert({device.number, kernel}); }

void* dynamic_shared() { return block->dynamic_memory.get(); }

void launch(const Launch& launch, const std::function<void()>& kernel) {
  if (launch.threads % kWarp != 0) fail("a block of " + std::to_string(launch.threads) + " threads is not whole warps");
  if (launch.dynamic_shared_bytes > std::max(kSharedWithoutAsking, allowed_shared[{device.number, launch.kernel}])) {
    fail("a kernel has not asked for the shared memory that it is launched with");
  }
  if (launch.early && (launch.cooperative || launch.cluster > 1))
    fail("early launches of such grids are not simulated");
  if (launch.cooperative && launch.cluster > 1) fail("a cooperative launch of clusters is not simulated");
  if (launch.cluster == 0 || launch.grid.x % launch.cluster != 0) fail("the grid is not made of whole clusters");
  if (launch.cluster > kClusterWithoutAsking && !allowed_large_clusters.count({device.number, launch.kernel})) {
    fail("a kernel has not asked for clusters of " + std::to_string(launch.cluster) + " blocks");
  }
  running_kernel = &kernel;
  const unsigned count = launch.grid.x * launch.grid.y * launch.grid.z;
  const unsigned alive = launch.cooperative ? count : launch.cluster;
  for (unsigned first = 0; first < count; first += alive) {
    if (launch.early) set_accessible(false);
    block = nullptr;
    cluster_arrived.clear();
    blocks.resize(alive);
    for (unsigned i = 0; i < alive; ++i) prepare(blocks[i], first + i, launch);
    run_blocks();
  }
  set_accessible(true);
}

void barrier(const char* file, int line) {
  if (!is_broken(file, line)) wait(State::kAtBarrier, {file, line});
}

void wait_for_predecessors(const char* file, int line) {
  if (is_broken(file, line)) return;
  wait(State::kAtBarrier, {file, line});
  set_accessible(true);
}

void wait_until(const std::function<bool()>& condition, const char* file, int line) {
  if (is_broken(file, line) || condition()) return;
  block->fibers[running].may_go_on = &condition;
  wait(State::kWaiting, {file, line});
}

bool spin(const char* file, int line) {
  if (is_broken(file, line)) return true;
  wait(State::kSpinning, {file, line});
  return false;
}

void collective(void* mine, void (*combine)(void* const* lanes), const char* file, int line) {
  const unsigned self = running, lane = self % kWarp;
  Warp& warp = block->warps[self / kWarp];
  const Place place{file, line};
  if (warp.arrived == 0) warp.place = place;
  if (!(warp.place == place)) fail("lanes of one warp at different collectives: " + describe(place));
  warp.lanes[lane] = mine;
  if (++warp.arrived < kWarp) return wait(State::kAtCollective, place);
  warp.arrived = 0;
  combine(warp.lanes);
  for (unsigned other = self - lane; other < self - lane + kWarp; ++other) {
    if (other != self) block->fibers[other].state = State::kReady;
  }
}

template <typename T>
T shuffle_xor(unsigned mask, T value, int offset, const char* file, int line) {
  if (mask != 0xffffffffu) fail("a shuffle among part of a warp");
  struct Lane {
    T value;
    int offset;
    T result;
  } mine{value, offset, T{}};
  const auto combine = [](void* const* lanes) {
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      Lane& self = *static_cast<Lane*>(lanes[lane]);
      self.result = static_cast<const Lane*>(lanes[lane ^ static_cast<unsigned>(self.offset)])->value;
    }
  };
  collective(&mine, combine, file, line);
  return mine.result;
}
template uint32_t shuffle_xor(unsigned, uint32_t, int, const char*, int);
template float shuffle_xor(unsigned, float, int, const char*, int);
template double shuffle_xor(unsigned, double, int, const char*, int);
template unsigned long long shuffle_xor(unsigned, unsigned long long, int, const char*, int);

void copy_async(void* to, const void* from, size_t bytes) {
  Fiber& fiber = block->fibers[running];
  fiber.copies.push_back({to, from, bytes, fiber.groups});
  std::memset(to, kPoison, bytes);
}

void commit_copies() { ++block->fibers[running].groups; }

void wait_copies(unsigned pending, const char* file, int line) {
  if (is_broken(file, line)) return;
  Fiber& fiber = block->fibers[running];
  const auto waiting = std::partition(fiber.copies.begin(), fiber.copies.end(),
                                      [&](const Copy& copy) { return copy.group + pending < fiber.groups; });
  for (auto copy = fiber.copies.begin(); copy != waiting; ++copy) {
    copy->from ? std::memcpy(copy->to, copy->from, copy->bytes) : std::memset(copy->to, 0, copy->bytes);
  }
  fiber.copies.erase(fiber.copies.begin(), waiting);
}

unsigned cluster_rank() { return static_cast<unsigned>(block - blocks.data()); }

unsigned cluster_size() { return static_cast<unsigned>(blocks.size()); }

void cluster_arrive(const char* file, int line) {
  if (is_broken(file, line)) return;
  Fiber& fiber = block->fibers[running];
  if (fiber.must_wait) fail("a thread arrives twice at " + describe({file, line}) + " and has not waited in between");
  if (cluster_arrived.size() == fiber.cluster_arrivals) cluster_arrived.push_back(0);
  ++cluster_arrived[fiber.cluster_arrivals++];
  fiber.must_wait = true;
}

void cluster_wait(const char* file, int line) {
  Fiber& fiber = block->fibers[running];
  if (!fiber.must_wait && broken_line == 0)
    fail("a thread waits at " + describe({file, line}) + " and has not arrived");
  fiber.must_wait = false;
  if (fiber.cluster_arrivals == 0) return;
  const size_t time = fiber.cluster_arrivals - 1, threads = blocks.size() * block->fibers.size();
  wait_until([=] { return cluster_arrived[time] == threads; }, file, line);
}

void* map_shared(const void* own, unsigned rank) {
  const ptrdiff_t offset = static_cast<const char*>(own) - block->dynamic_memory.get();
  if (offset < 0 || static_cast<size_t>(offset) >= block->dynamic_bytes) fail("only dynamic shared memory is mapped");
  if (rank >= blocks.size()) fail("no block of rank " + std::to_string(rank) + " is in the cluster");
  if (!blocks[rank].dynamic_memory) fail("the shared memory of a block that has ended is mapped");
  return blocks[rank].dynamic_memory.get() + offset;
}

}  // namespace simulator
