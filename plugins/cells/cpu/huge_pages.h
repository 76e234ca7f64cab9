// Memory for what is read from its beginning to its end in every step: in large pages, where the system has them. With
// pages of 4 KiB the hardware's prefetcher stops sixteen times in 64 KiB, and a stream takes half as long again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace xlstm::cpu {

// `size` bytes of zeros at the beginning of a cache line. Small pieces share large pages, which are given back with the
// last of them. Safe from any thread; throws std::bad_alloc.
std::shared_ptr<uint8_t> allocate_zeros(size_t size);

}  // namespace xlstm::cpu
