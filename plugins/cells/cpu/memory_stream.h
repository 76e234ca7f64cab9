// The memory streams that a step's time is compared with: the least that it must do to its bytes.
#pragma once

#include <cstdint>

namespace xlstm::cpu {

// word = 0.999 word + 1 for `count` floats: what a state update in place does to memory.
void update_memory(float* words, int64_t count);

// Reads `count` 32-bit words, as a step does the weights. What it returns only keeps the reads alive.
int32_t read_memory(const int32_t* words, int64_t count);

}  // namespace xlstm::cpu
