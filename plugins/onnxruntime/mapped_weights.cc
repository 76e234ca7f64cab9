#include "onnxruntime/mapped_weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <memory>

namespace xlstm::ort {
namespace {

// How many bytes from an address on, at most so many, one mapping of a file covers.
size_t mapped_from_file(const void* from, size_t size) {
  const auto address = reinterpret_cast<uintptr_t>(from);
  const std::unique_ptr<FILE, int (*)(FILE*)> maps(std::fopen("/proc/self/maps", "re"), std::fclose);
  char line[4096 + 128];  // a path is no longer than that
  while (maps && std::fgets(line, sizeof line, maps.get())) {
    uintptr_t begin = 0, end = 0;
    unsigned long inode = 0;
    if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %lu", &begin, &end, &inode) != 3) continue;
    if (begin <= address && address < end) return inode ? std::min<size_t>(size, end - address) : 0;
  }
  return 0;
}

}  // namespace

void release_mapped(const void* constant, size_t size) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t before = (page - reinterpret_cast<uintptr_t>(constant) % page) % page;  // the first whole page
  if (size < before + page) return;
  auto* const first = static_cast<uint8_t*>(const_cast<void*>(constant)) + before;
  const size_t mapped = mapped_from_file(first, (size - before) / page * page);
  // Constants are never written to, so what is in the file is what they are.
  if (mapped) madvise(first, mapped, MADV_DONTNEED);
}

}  // namespace xlstm::ort
