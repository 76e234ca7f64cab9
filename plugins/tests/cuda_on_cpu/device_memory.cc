#include "device_memory.h"

#include <cstdlib>
#include <map>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace simulator {
namespace {

std::map<void*, size_t> allocations;

}  // namespace

void* allocate(size_t bytes) {
  void* const memory = std::malloc(bytes);
  if (memory) allocations[memory] = bytes;
  return memory;
}

void release(void* memory) {
  allocations.erase(memory);
  std::free(memory);
}

void set_accessible(bool accessible) {
  for (const auto& [address, bytes] : allocations) {
    if (accessible) {  // NOLINT(bugprone-branch-clone): both are nothing where clang-tidy reads them
      ASAN_UNPOISON_MEMORY_REGION(address, bytes);
    } else {
      ASAN_POISON_MEMORY_REGION(address, bytes);
    }
  }
}

}  // namespace simulator
