// Test only: runs CUDA thread blocks on one CPU thread. Every CUDA thread is a fiber with a stack of its own, switched
// only where it must wait: a barrier opens when every thread of the block has come to the same __syncthreads(), a
// shuffle when every lane of the warp has come to the same one. In between threads run one after the other, so a
// thread that reads what another has yet to write reads the NaN that shared memory is filled with.
//
// A wrong kernel ends the process with a message: a barrier or shuffle that some threads miss, or that they reach at
// different source lines. Reads and writes out of bounds are the address sanitizer's to find: buffers, dynamic shared
// memory and stacks are all exact heap blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

namespace simulator {

struct Index {
  unsigned x, y, z;
};
extern Index thread_index, block_index;  // of the running fiber

// The order in which threads go on: 0 by rising index, 1 by falling index; 2 and 3 the same warp by warp, each as far as
// the next barrier; anything else a shuffled order drawn anew for every round from this seed.
void set_schedule(uint64_t seed);

// Makes the barrier at this source line let every thread pass, as if it had been left out; line 0 mends it. `file` is
// the end of the path.
void break_barrier(const char* file, int line);

void launch(unsigned blocks, unsigned threads, size_t dynamic_shared_bytes, const std::function<void()>& kernel);

void* dynamic_shared();
void barrier(const char* file, int line);

// Leaves `value` where the lane `lane ^ offset` of the warp finds it, and returns what that lane left.
uint32_t exchange(uint32_t value, int offset, unsigned mask, const char* file, int line);

inline float shuffle_xor(unsigned mask, float value, int offset, const char* file, int line) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = exchange(bits, offset, mask, file, line);
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

}  // namespace simulator
