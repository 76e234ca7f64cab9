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

struct Range {
  uintptr_t begin, end;
};

// The part of `range` from its beginning on that one mapping of a file covers; empty where there is none.
Range mapped_from_file(Range range) {
  const std::unique_ptr<FILE, int (*)(FILE*)> maps(std::fopen("/proc/self/maps", "re"), std::fclose);
  char line[4096 + 128];  // a path is no longer than that
  while (maps && std::fgets(line, sizeof line, maps.get())) {
    uintptr_t begin = 0, end = 0;
    unsigned long inode = 0;
    if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %lu", &begin, &end, &inode) != 3) continue;
    if (begin <= range.begin && range.begin < end) return {range.begin, inode ? std::min(range.end, end) : range.begin};
  }
  return {range.begin, range.begin};
}

}  // namespace

void release_mapped(const void* constant, size_t size) {
  const auto data = reinterpret_cast<uintptr_t>(constant), page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = (data + page - 1) / page * page, last = (data + size) / page * page;
  if (first >= last) return;
  const Range mapped = mapped_from_file({first, last});
  // Constants are never written to, so what is in the file is what they are.
  if (mapped.begin < mapped.end) {
    madvise(reinterpret_cast<void*>(mapped.begin), mapped.end - mapped.begin, MADV_DONTNEED);
  }
}

}  // namespace xlstm::ort
