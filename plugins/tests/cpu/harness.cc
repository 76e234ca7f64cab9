// The CPU kernels for Python's tests and benchmarks (through ctypes): a small thread pool, and the memory stream that a
// cell's time is compared with.
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cells/cpu/cpu_layers.h"
#include "cells/cpu/linear.h"
#include "cells/cpu/memory_stream.h"
#include "cells/cpu/quantized_product.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// Workers spin between tasks, as ONNX Runtime's do: waking a sleeping thread would cost more than a small cell. After a
// while without any they sleep, so as not to take time from whatever is measured next.
class Pool {
 public:
  explicit Pool(int64_t threads) {
    for (int64_t index = 1; index < threads; ++index) workers_.emplace_back([this] { work(); });
  }
  ~Pool() {
    begin([this] { stop_ = true; });
    for (std::thread& worker : workers_) worker.join();
  }
  xlstm::cpu::ParallelFor parallel_for() {
    xlstm::cpu::ParallelFor result;
    result.threads = static_cast<int64_t>(workers_.size()) + 1;
    result.grain_bytes = 1;  // tests of small cases use every thread too
    result.pool = this;
    result.run = [](void* pool, int64_t tasks, xlstm::cpu::ParallelFor::Task task, void* context) {
      static_cast<Pool*>(pool)->run(tasks, task, context);
    };
    return result;
  }

 private:
  template <class Change>
  void begin(const Change& change) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      change();
      ++round_;
    }
    wake_.notify_all();
  }
  void run(int64_t tasks, xlstm::cpu::ParallelFor::Task task, void* context) {
    begin([&] {
      tasks_ = tasks, task_ = task, context_ = context;
      next_ = 0;
      busy_ = static_cast<int64_t>(workers_.size());
    });
    take();
    while (busy_ != 0) std::this_thread::yield();
  }
  void take() {
    for (int64_t index; (index = next_++) < tasks_;) task_(context_, index);
  }
  void work() {
    constexpr int kSpins = 20000;
    for (int64_t seen = 0;; ++seen) {
      for (int spin = 0; spin < kSpins && round_ == seen; ++spin) std::this_thread::yield();
      if (round_ == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return round_ != seen; });
      }
      if (stop_) return;
      take();
      --busy_;
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
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

EXPORT void xlstm_causal_conv(const xlstm::CausalConvArgs* args, void* pool) {
  xlstm::cpu::causal_conv(*args, static_cast<Pool*>(pool)->parallel_for());
}
EXPORT void xlstm_mlstm_projections(const xlstm::MlstmProjectionsArgs* args, void* pool) {
  xlstm::cpu::mlstm_projections(*args, static_cast<Pool*>(pool)->parallel_for());
}
EXPORT void xlstm_slstm_projections(const xlstm::SlstmProjectionsArgs* args, void* pool) {
  const xlstm::cpu::PackedLinear packed = xlstm::cpu::pack_slstm_projections(*args);
  xlstm::cpu::slstm_projections(*args, packed, static_cast<Pool*>(pool)->parallel_for());
}
EXPORT void xlstm_mlstm_heads(const xlstm::MlstmHeadsArgs* args, void* pool) {
  xlstm::cpu::mlstm_heads(*args, static_cast<Pool*>(pool)->parallel_for());
}
EXPORT void xlstm_head_norm(const xlstm::HeadNormArgs* args, void* pool) {
  xlstm::cpu::head_norm(*args, static_cast<Pool*>(pool)->parallel_for());
}
EXPORT void xlstm_add_norm(const xlstm::AddNormArgs* args, void* pool) {
  xlstm::cpu::add_norm(*args, static_cast<Pool*>(pool)->parallel_for());
}
EXPORT void xlstm_gated_linear_unit(const xlstm::GatedLinearUnitArgs* args, void* pool) {
  xlstm::cpu::gated_linear_unit(*args, static_cast<Pool*>(pool)->parallel_for());
}
EXPORT void xlstm_soft_cap(const xlstm::SoftCapArgs* args, void* pool) {
  xlstm::cpu::soft_cap(*args, static_cast<Pool*>(pool)->parallel_for());
}

EXPORT void* xlstm_linear_pack(const xlstm::cpu::LinearArgs* layer) { return new xlstm::cpu::PackedLinear(*layer); }
EXPORT void xlstm_linear_unpack(void* packed) { delete static_cast<xlstm::cpu::PackedLinear*>(packed); }
EXPORT void xlstm_linear(void* packed, int64_t rows, const void* x, void* y, void* pool) {
  const auto* layer = static_cast<xlstm::cpu::PackedLinear*>(packed);
  layer->multiply(rows, x, y, static_cast<Pool*>(pool)->parallel_for());
}

EXPORT bool xlstm_has_quantized_product() { return xlstm::cpu::has_quantized_product(); }
EXPORT void* xlstm_pack(const xlstm::cpu::QuantizedMatrix* matrix) { return new xlstm::cpu::PackedMatrix(*matrix); }
EXPORT void xlstm_unpack(void* packed) { delete static_cast<xlstm::cpu::PackedMatrix*>(packed); }
EXPORT void xlstm_multiply(void* packed, int32_t type, int64_t rows, const void* x, void* y, void* pool) {
  const auto* matrix = static_cast<xlstm::cpu::PackedMatrix*>(packed);
  matrix->multiply(static_cast<xlstm::DataType>(type), rows, x, y, static_cast<Pool*>(pool)->parallel_for());
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

namespace {

// A few pieces for each thread, as a cell's tasks.
template <class Function>
void in_pieces(int64_t count, void* pool, const Function& function) {
  const auto parallel_for = static_cast<Pool*>(pool)->parallel_for();
  const int64_t tasks = 4 * parallel_for.threads;
  parallel_for(tasks, 1, [&](int64_t task) { function(count * task / tasks, count * (task + 1) / tasks); });
}

}  // namespace

EXPORT void xlstm_read_modify_write(float* data, int64_t count, void* pool) {
  in_pieces(count, pool, [&](int64_t begin, int64_t end) { xlstm::cpu::update_memory(data + begin, end - begin); });
}

EXPORT int32_t xlstm_read(const int32_t* data, int64_t count, void* pool) {
  std::atomic<int32_t> mixed{0};
  in_pieces(count, pool,
            [&](int64_t begin, int64_t end) { mixed ^= xlstm::cpu::read_memory(data + begin, end - begin); });
  return mixed;
}
