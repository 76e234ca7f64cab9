// Test only: runs CUDA thread blocks on one CPU thread. Every CUDA thread is a fiber with a stack of its own, switched
// only where it must wait: a barrier opens when every thread of the block has come to the same __syncthreads(), a
// collective of a warp (shuffle, product of matrices) when every lane has come to the same one, and a thread that spins
// gives way at its __nanosleep(). In between threads run one after the other, so a thread that reads what another has
// yet to write reads the NaN that shared memory is filled with. Blocks run one after the other too, but for those of a
// cluster, and all blocks of a cooperative launch, which are alive at the same time.
//
// A wrong kernel ends the process with a message: a barrier or collective that some threads miss, or that they reach at
// different source lines; a spin that nobody ends; more shared memory than asked for or than there is. Reads and writes
// out of bounds are the address sanitizer's to find: buffers, dynamic shared memory and stacks are all exact heap
// blocks, and the shared memory of a block is freed where the block ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>

namespace simulator {

struct Index {
  unsigned x, y, z;
};
extern Index thread_index, block_index;  // of the running fiber

// What the runtime says of the device; tests set it.
struct Device {
  int number = 0;
  int multiprocessors = 4;
  int grid_height = 2;              // along y and z: so few that who asks must launch several grids
  size_t shared_limit = 99 * 1024;  // bytes of dynamic shared memory that a block may ask for
  bool cooperative = true;
  bool clusters = true;
  int resident_blocks = 1 << 16;  // of a cooperative launch: fewer than what is said where a context has only a part
  int resident_clusters = 1 << 16;
};
extern Device device;

// The order in which threads go on: 0 by rising index, 1 by falling index; 2 and 3 the same warp by warp, each as far
// as the next barrier; anything else a shuffled order drawn anew for every round from this seed. Blocks that are alive
// at the same time take turns of one round; with 2 and 3 each goes as far as it can, with a shuffled order every thread
// lets half of its turns pass.
void set_schedule(uint64_t seed);

// Makes the barrier, the spin or the wait at this source line let every thread pass, as if it had been left out; line 0
// mends it. `file` is the end of the path.
void break_barrier(const char* file, int line);

struct Launch {
  Index grid;
  unsigned threads;
  size_t dynamic_shared_bytes;
  const void* kernel;  // to look up what was asked for with allow_dynamic_shared and allow_large_clusters
  bool cooperative = false;
  unsigned cluster = 1;  // blocks side by side along x
  bool early = false;    // it may start before the kernel before it has ended
};
void launch(const Launch& launch, const std::function<void()>& kernel);

// Beyond 48 KiB a kernel must have asked before it is launched; what it has asked for on this device it may not give
// back, since a launch of another thread may rely on it.
void allow_dynamic_shared(const void* kernel, size_t bytes);

// Beyond eight blocks to a cluster, likewise.
void allow_large_clusters(const void* kernel);

// Ends the process.
[[noreturn]] void fail(const std::string& message);

// The running thread goes on once `condition` holds, or at once if the wait at this line is left out.
void wait_until(const std::function<bool()>& condition, const char* file, int line);

void* dynamic_shared();
void barrier(const char* file, int line);

// For the kernels before a launch that is `early`. Until all threads of the block have come here, what cudaMalloc gave
// may not be touched. Can be left out as a barrier can.
void wait_for_predecessors(const char* file, int line);

// True if the spin at this line is left out; else lets the others run first.
bool spin(const char* file, int line);

// Waits until every lane of the warp has come here with its argument; the last one calls `combine` for all of them.
void collective(void* mine, void (*combine)(void* const* lanes), const char* file, int line);

// What the lane at distance `offset` gives.
template <typename T>
T shuffle_xor(unsigned mask, T value, int offset, const char* file, int line);

// Copies into shared memory that take place when the running thread waits for them, and not before; null copies zeros.
// From the start of a copy on its target holds poison, since on a GPU it may have come already.
void copy_async(void* to, const void* from, size_t bytes);
void commit_copies();
// For all groups of copies but the last `pending`; a wait can be left out as a barrier can.
void wait_copies(unsigned pending, const char* file, int line);

// Of the cluster that the running block is part of. A thread that has arrived waits for all threads of the cluster to
// arrive as often as it has; it may arrive again only after it has waited.
unsigned cluster_rank();
unsigned cluster_size();
void cluster_arrive(const char* file, int line);
void cluster_wait(const char* file, int line);

// The place in another block's dynamic shared memory that `own` is in that of the running block.
void* map_shared(const void* own, unsigned rank);

// An mbarrier in dynamic shared memory. Its phase ends when `count` arrivals and all bytes that they expect have come;
// bytes may come before they are expected. A wait for a phase that is not the running one passes.
void mbarrier_init(uint64_t* barrier, unsigned count);
void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes);
void mbarrier_wait(uint64_t* barrier, unsigned phase, const char* file, int line);

// Writes up to eight bytes to a block's shared memory and counts them at its mbarrier; `to` and `barrier` are the
// places in the running block's. It happens at any time later, in any order.
void store_async(void* to, const void* value, unsigned bytes, uint64_t* barrier, unsigned rank);

// Lets such stores happen: every one, or each by chance. False if there was none.
bool complete_stores(std::mt19937_64& random, bool all);

// When all blocks have ended.
void end_stores();

}  // namespace simulator
