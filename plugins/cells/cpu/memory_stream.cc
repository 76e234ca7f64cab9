#include "cells/cpu/memory_stream.h"

namespace xlstm::cpu {
namespace {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EVERY_INSTRUCTION_SET __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EVERY_INSTRUCTION_SET
#endif

constexpr int64_t kLine = 16;           // words in a cache line
constexpr int64_t kAhead = 96 * kLine;  // the hardware's prefetcher stops at every page; a limit should not

EVERY_INSTRUCTION_SET void update(float* begin, float* end) {
  float* value = begin;
  for (; value + kLine <= end; value += kLine) {
    __builtin_prefetch(value + kAhead);
    for (int64_t word = 0; word < kLine; ++word) value[word] = 0.999f * value[word] + 1.0f;
  }
  for (; value < end; ++value) *value = 0.999f * *value + 1.0f;
}

EVERY_INSTRUCTION_SET int32_t mix(const int32_t* begin, const int32_t* end) {
  int32_t mixed[kLine] = {}, all = 0;
  const int32_t* value = begin;
  for (; value + kLine <= end; value += kLine) {
    __builtin_prefetch(value + kAhead);
    for (int64_t word = 0; word < kLine; ++word) mixed[word] ^= value[word];
  }
  for (; value < end; ++value) all ^= *value;
  for (const int32_t word : mixed) all ^= word;
  return all;
}

}  // namespace

void update_memory(float* words, int64_t count) { update(words, words + count); }

int32_t read_memory(const int32_t* words, int64_t count) { return mix(words, words + count); }

}  // namespace xlstm::cpu
