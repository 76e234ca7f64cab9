#include "runtime/half_precision.h"

#include <cmath>
#include <cstring>

namespace xlstm::internal {
namespace {

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float of_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float from_bfloat16(std::uint16_t half) { return of_bits(std::uint32_t{half} << 16); }

std::uint16_t to_bfloat16(float value) {
  const std::uint32_t bits = bits_of(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float from_float16(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16, magnitude = half & 0x7FFFu;
  if (magnitude < 0x400) return std::copysign(std::ldexp(static_cast<float>(magnitude), -24), sign ? -1.0f : 1.0f);
  // The exponent's bias goes from 15 to 127; that of infinities and NaNs stays the largest.
  const std::uint32_t rebias = magnitude < 0x7C00 ? (127 - 15) << 23 : (255 - 31) << 23;
  return of_bits(sign | ((magnitude << 13) + rebias));
}

std::uint16_t to_float16(float value) {
  const auto sign = static_cast<std::uint16_t>(bits_of(value) >> 16 & 0x8000);
  const std::uint32_t magnitude = bits_of(value) & 0x7FFFFFFF;
  if (std::isnan(value)) return sign | 0x7E00;
  if (magnitude >= 0x477FF000) return sign | 0x7C00;  // from 65520 on, the nearest is infinity
  if (magnitude < 0x38800000) {                       // below 2^-14: a multiple of 2^-24
    return sign | static_cast<std::uint16_t>(std::lrint(std::ldexp(of_bits(magnitude), 24)));
  }
  const std::uint32_t rebiased = magnitude - ((127 - 15) << 23);
  return sign | static_cast<std::uint16_t>((rebiased + 0xFFF + (rebiased >> 13 & 1)) >> 13);
}

}  // namespace

void widen(const std::string& dtype, const std::uint16_t* from, std::size_t count, float* to) {
  const auto convert = dtype == "float16" ? from_float16 : from_bfloat16;
  for (std::size_t i = 0; i < count; ++i) to[i] = convert(from[i]);
}

bool narrow(const std::string& dtype, const float* from, std::size_t count, std::uint16_t* to) {
  const bool float16 = dtype == "float16";
  const std::uint16_t infinity = float16 ? 0x7C00 : 0x7F80;
  bool fits = true;
  for (std::size_t i = 0; i < count; ++i) {
    to[i] = float16 ? to_float16(from[i]) : to_bfloat16(from[i]);
    fits &= (to[i] & 0x7FFF) != infinity || std::isinf(from[i]);
  }
  return fits;
}

}  // namespace xlstm::internal
