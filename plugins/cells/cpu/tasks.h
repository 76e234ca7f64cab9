// How the kernels cut their work and lay out their scratch memory. Internal to the CPU kernels.
#pragma once

#include <cstdint>
#include <memory>

namespace xlstm::cpu {

constexpr int64_t kLine = 16;  // floats in a cache line

// Whether `tasks` equal tasks keep the threads busy for all but a tenth of the time.
inline bool is_balanced(int64_t tasks, int64_t threads) {
  constexpr double kIdle = 0.1;
  const int64_t rounds = (tasks + threads - 1) / threads;
  return static_cast<double>(tasks) >= (1 - kIdle) * static_cast<double>(rounds * threads);
}

// The first cache line at or after `scratch`: up to kLine - 1 floats further.
inline float* aligned(float* scratch) {
  constexpr uintptr_t kBytes = kLine * sizeof(float);
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch) + kBytes - 1) / kBytes * kBytes);
}

// Room for so many floats: on the stack for at most `kHere`. Throws std::bad_alloc.
template <int64_t kHere>
class Scratch {
 public:
  explicit Scratch(int64_t size) : heap_(size > kHere ? new float[static_cast<size_t>(size)] : nullptr) {}
  float* data() { return heap_ ? heap_.get() : here_; }

 private:
  std::unique_ptr<float[]> heap_;
  alignas(kLine * sizeof(float)) float here_[kHere];
};

}  // namespace xlstm::cpu
