// States that are stored in half precision, from and to the float32 in which they are read, written and saved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace xlstm::internal {

// `dtype`: float16 or bfloat16.
void widen(const std::string& dtype, const std::uint16_t* from, std::size_t count, float* to);

// To nearest, ties to even. False where a finite value is beyond the range of `dtype`.
bool narrow(const std::string& dtype, const float* from, std::size_t count, std::uint16_t* to);

}  // namespace xlstm::internal
