// For `xlstm-export bench`, which measures what the memory allows: one thread each; the caller shares the words out.
#include "cells/cpu/memory_stream.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int32_t xlstm_read_memory(const int32_t* words, int64_t count) { return xlstm::cpu::read_memory(words, count); }

EXPORT void xlstm_update_memory(float* words, int64_t count) { xlstm::cpu::update_memory(words, count); }
