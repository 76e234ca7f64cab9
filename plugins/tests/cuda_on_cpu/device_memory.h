// Test only: the memory that cudaMalloc gives.
#pragma once

#include <cstddef>

namespace simulator {

void* allocate(size_t bytes);
void release(void* memory);

// Whether it may be read and written. Under the address sanitizer, an access where it may not ends the process.
void set_accessible(bool accessible);

}  // namespace simulator
