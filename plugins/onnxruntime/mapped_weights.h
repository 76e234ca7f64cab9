// What becomes of a weight in the file once a kernel has a copy of it in an order of its own.
#pragma once

#include <cstddef>

namespace xlstm::ort {

// Gives back the memory of a constant that ONNX Runtime has mapped from a file: whoever reads it again finds it there.
// Anything else stays as it is.
void release_mapped(const void* constant, size_t size);

}  // namespace xlstm::ort
