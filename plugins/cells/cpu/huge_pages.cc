#include "cells/cpu/huge_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <new>

namespace xlstm::cpu {
namespace {

constexpr size_t kPage = size_t{2} << 20, kLine = 64;
constexpr size_t kArena = size_t{64} << 20;  // of addresses; memory is taken where it is written to

size_t round_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

// Whole large pages.
class Arena {
 public:
  explicit Arena(size_t size) : mapped_(size + kPage) {
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
    const auto address = reinterpret_cast<uintptr_t>(base_);
    next_ = static_cast<uint8_t*>(base_) + (round_up(address, kPage) - address);
    end_ = next_ + size;
    madvise(next_, size, MADV_HUGEPAGE);  // a system without them gives small ones
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { munmap(base_, mapped_); }

  // Null: it does not fit.
  uint8_t* take(size_t size) {
    if (static_cast<size_t>(end_ - next_) < size) return nullptr;
    uint8_t* const taken = next_;
    next_ += size;
    return taken;
  }

 private:
  size_t mapped_;
  void* base_;
  uint8_t *next_, *end_;
};

}  // namespace

std::shared_ptr<uint8_t> allocate_zeros(size_t size) {
  static std::mutex mutex;
  static auto* const current = new std::weak_ptr<Arena>;  // no destructor at exit: who calls may be unmapped then
  size = round_up(std::max<size_t>(size, 1), kLine);
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Arena> arena = current->lock();
  uint8_t* taken = arena ? arena->take(size) : nullptr;
  if (!taken) {
    arena = std::make_shared<Arena>(std::max(kArena, round_up(size, kPage)));
    taken = arena->take(size);
    *current = arena;
  }
  return {arena, taken};  // keeps the arena
}

}  // namespace xlstm::cpu
