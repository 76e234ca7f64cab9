// Asking for memory before it is used. Internal to the CPU kernels.
#pragma once

#include <cstdint>

namespace xlstm::cpu {

constexpr int64_t kCacheLine = 64;  // bytes

// Short arrays, one after another: the processor's own prefetcher has hardly begun when each of them ends.
inline void prefetch_all(const void* from, int64_t bytes) {
  const char* const begin = static_cast<const char*>(from);
  for (int64_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(begin + at);
}

// What is read once a step. So the caches keep what else there is, the runtime's own data, too.
inline void prefetch_once(const void* from) { __builtin_prefetch(from, 0, 0); }

}  // namespace xlstm::cpu
