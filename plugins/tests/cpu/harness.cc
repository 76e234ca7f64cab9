// The CPU kernels for Python's tests and benchmarks (through ctypes): a small thread pool, and the memory stream that a
// cell's time is compared with.
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "cells/cpu/cpu_cells.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// Workers that spin between tasks, as ONNX Runtime's do: waking a sleeping thread would cost more than a small cell.
class Pool {
 public:
  explicit Pool(int64_t threads) {
    for (int64_t index = 1; index < threads; ++index) workers_.emplace_back([this] { work(); });
  }
  ~Pool() {
    stop_ = true;
    for (std::thread& worker : workers_) worker.join();
  }
  xlstm::cpu::ParallelFor parallel_for() {
    xlstm::cpu::ParallelFor result;
    result.threads = static_cast<int64_t>(workers_.size()) + 1;
    result.pool = this;
    result.run = [](void* pool, int64_t tasks, xlstm::cpu::ParallelFor::Task task, void* context) {
      static_cast<Pool*>(pool)->run(tasks, task, context);
    };
    return result;
  }

 private:
  void run(int64_t tasks, xlstm::cpu::ParallelFor::Task task, void* context) {
    tasks_ = tasks, task_ = task, context_ = context;
    next_ = 0;
    busy_ = static_cast<int64_t>(workers_.size());
    ++round_;
    take();
    while (busy_ != 0) std::this_thread::yield();
  }
  void take() {
    for (int64_t index; (index = next_++) < tasks_;) task_(context_, index);
  }
  void work() {
    for (int64_t seen = 0;;) {
      while (round_ == seen) {
        if (stop_) return;
        std::this_thread::yield();
      }
      seen = round_;
      take();
      --busy_;
    }
  }

  std::vector<std::thread> workers_;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> round_{0}, next_{0}, busy_{0};
  int64_t tasks_ = 0;
  xlstm::cpu::ParallelFor::Task task_ = nullptr;
  void* context_ = nullptr;
};

}  // namespace

EXPORT void* xlstm_pool_create(int64_t threads) { return new Pool(threads); }
EXPORT void xlstm_pool_destroy(void* pool) { delete static_cast<Pool*>(pool); }

EXPORT void xlstm_mlstm(const xlstm::MlstmArgs* args, void* pool) {
  xlstm::cpu::mlstm(*args, static_cast<Pool*>(pool)->parallel_for());
}
EXPORT void xlstm_slstm(const xlstm::SlstmArgs* args, void* pool) {
  xlstm::cpu::slstm(*args, static_cast<Pool*>(pool)->parallel_for());
}

// The names this processor has, separated by spaces, best first.
EXPORT const char* xlstm_instruction_sets() {
  static const std::string names = [] {
    std::string joined;
    for (const std::string& name : xlstm::cpu::instruction_sets()) joined += (joined.empty() ? "" : " ") + name;
    return joined;
  }();
  return names.c_str();
}
EXPORT bool xlstm_force_instruction_set(const char* name) { return xlstm::cpu::force_instruction_set(name); }

// data[j] = 0.999 data[j] + 1 for `count` floats: the least that a state update in place must do to its bytes.
EXPORT void xlstm_read_modify_write(float* data, int64_t count, void* pool) {
  const auto parallel_for = static_cast<Pool*>(pool)->parallel_for();
  constexpr int64_t kPieces = 4;  // for each thread, as a cell's tasks
  const int64_t tasks = kPieces * parallel_for.threads;
  parallel_for(tasks, [&](int64_t task) {
    float* const begin = data + count * task / tasks;
    float* const end = data + count * (task + 1) / tasks;
    for (float* value = begin; value < end; ++value) *value = 0.999f * *value + 1.0f;
  });
}
