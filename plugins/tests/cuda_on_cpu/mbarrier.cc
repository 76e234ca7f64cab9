// Barriers in shared memory (mbarrier) and the asynchronous stores that they count.
#include <cstring>
#include <vector>

#include "simulator.h"

namespace simulator {

namespace {

constexpr uint32_t kMark = 0x155;  // of an mbarrier that has been made

// What the 64 bits of an mbarrier hold here.
struct __attribute__((may_alias)) Mbarrier {
  uint16_t count, pending;
  int32_t bytes : 22;  // expected and not yet come
  uint32_t phase : 1;
  uint32_t mark : 9;
};
static_assert(sizeof(Mbarrier) == sizeof(uint64_t));

struct AsyncStore {
  char* to;
  char value[8];
  unsigned bytes;
  Mbarrier* barrier;
};

std::vector<AsyncStore> pending_stores;

Mbarrier& view(void* barrier) {
  Mbarrier& found = *static_cast<Mbarrier*>(barrier);
  if (found.mark != kMark) fail("an mbarrier that nobody has made");
  return found;
}

// Ends the phase if nothing is missing any more.
void update(Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  barrier.phase ^= 1u;
  barrier.pending = barrier.count;
}

}  // namespace

bool complete_stores(std::mt19937_64& random, bool all) {
  const bool any = !pending_stores.empty();
  std::vector<AsyncStore> left;
  for (const AsyncStore& store : pending_stores) {
    if (!all && random() % 2) {
      left.push_back(store);
      continue;
    }
    std::memcpy(store.to, store.value, store.bytes);
    store.barrier->bytes -= static_cast<int32_t>(store.bytes);
    update(*store.barrier);
  }
  pending_stores.swap(left);
  return any;
}

void end_stores() {
  if (!pending_stores.empty()) fail("an asynchronous store that no block waits for");
}

void mbarrier_init(uint64_t* barrier, unsigned count) {
  const auto arrivals = static_cast<uint16_t>(count);
  *reinterpret_cast<Mbarrier*>(barrier) = {arrivals, arrivals, 0, 0, kMark};
}

void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes) {
  Mbarrier& arrivals = view(barrier);
  if (arrivals.pending == 0) fail("more threads arrive at an mbarrier than it counts");
  --arrivals.pending;
  arrivals.bytes += static_cast<int32_t>(bytes);
  update(arrivals);
}

void mbarrier_wait(uint64_t* barrier, unsigned phase, const char* file, int line) {
  wait_until([=] { return view(barrier).phase != phase; }, file, line);
}

void store_async(void* to, const void* value, unsigned bytes, uint64_t* barrier, unsigned rank) {
  void* const counter = map_shared(barrier, rank);
  AsyncStore store{static_cast<char*>(map_shared(to, rank)), {}, bytes, &view(counter)};
  std::memcpy(store.value, value, bytes);
  pending_stores.push_back(store);
}

}  // namespace simulator
