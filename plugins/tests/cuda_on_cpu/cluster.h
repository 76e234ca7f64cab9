// Test only: what cells/cuda/cluster.cuh has for thread-block clusters, in the simulator.
#pragma once

#include "simulator.h"

namespace xlstm::cuda {

inline unsigned cluster_rank() { return simulator::cluster_rank(); }

inline unsigned cluster_size() { return simulator::cluster_size(); }

inline void cluster_arrive(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simulator::cluster_arrive(file, line);
}

inline void cluster_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simulator::cluster_wait(file, line);
}

inline void cluster_sync(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  cluster_arrive(file, line);
  cluster_wait(file, line);
}

template <typename T>
T* in_block(T* own, unsigned rank) {
  return static_cast<T*>(simulator::map_shared(own, rank));
}

inline void mbarrier_init(uint64_t* barrier, unsigned count) { simulator::mbarrier_init(barrier, count); }

inline void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes) {
  simulator::mbarrier_arrive_expect(barrier, bytes);
}

inline void mbarrier_wait(uint64_t* barrier, unsigned phase, const char* file = __builtin_FILE(),
                          int line = __builtin_LINE()) {
  simulator::mbarrier_wait(barrier, phase, file, line);
}

template <typename T>
void store_async(T* to, T value, uint64_t* barrier, unsigned rank) {
  simulator::store_async(to, &value, sizeof value, barrier, rank);
}

}  // namespace xlstm::cuda
