// Loading and storing the three types of activations and of the mLSTM's memory as float vectors. Compiled once for each
// instruction set: include it after hwy/foreach_target.h, as Highway's own -inl.h files.
#if defined(XLSTM_CELLS_CPU_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef XLSTM_CELLS_CPU_LANES_INL_H_
#undef XLSTM_CELLS_CPU_LANES_INL_H_
#else
#define XLSTM_CELLS_CPU_LANES_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "cells/cells.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Storage; the arithmetic is always float.
using Float16 = hwy::float16_t;
using BFloat16 = hwy::bfloat16_t;

// Calls function(T{}) with the C++ type of `type`.
template <class Function>
HWY_INLINE void dispatch_type(DataType type, const Function& function) {
  switch (type) {
    case DataType::kFloat32:
      return function(float{});
    case DataType::kFloat16:
      return function(Float16{});
    case DataType::kBFloat16:
      return function(BFloat16{});
  }
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* from) {
  return hn::LoadU(d, from);
}

template <class D, class Half>
HWY_INLINE hn::Vec<D> load(D d, const Half* from) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<Half, D>(), from));
}

template <class T>
HWY_INLINE float load_one(const T* from) {
  return hn::GetLane(load(hn::CappedTag<float, 1>(), from));
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> value, float* to) {
  hn::StoreU(value, d, to);
}

// The lower 16 bits of each lane.
template <class DU>
HWY_INLINE void store_low_halves(DU /*d*/, hn::Vec<DU> bits, void* to) {
  const hn::Rebind<uint16_t, DU> narrow;
  hn::StoreU(hn::TruncateTo(narrow, bits), narrow, static_cast<uint16_t*>(to));
}

// Both conversions round to nearest, ties to even, on every instruction set: Highway's own truncate where the processor
// has no instruction for it. Every finite float, infinities included, becomes what IEEE 754 says; a NaN stays one.

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
template <class D>
HWY_INLINE void store(D /*d*/, hn::Vec<D> value, Float16* to) {
  const hn::Rebind<Float16, D> narrow;
  hn::StoreU(hn::DemoteTo(narrow, value), narrow, to);
}
#else
template <class D>
HWY_INLINE void store(D d, hn::Vec<D> value, Float16* to) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, value);
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFF));
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000));
  const auto below = [&](uint32_t limit) HWY_ATTR {
    return hn::Lt(hn::BitCast(hn::RebindToSigned<D>(), magnitude),
                  hn::Set(hn::RebindToSigned<D>(), static_cast<int32_t>(limit)));
  };
  // Normal: rebias the exponent from 127 to 15, and round away 13 bits of the mantissa; a carry goes to the exponent.
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1));
  const auto rebiased = hn::Sub(magnitude, hn::Set(du, (127 - 15) << 23));
  const auto normal = hn::ShiftRight<13>(hn::Add(hn::Add(rebiased, hn::Set(du, 0xFFF)), odd));
  // Subnormal, below 2^-14: in a sum with 0.5 the last bit is 2^-24, as in the result; the processor rounds.
  const auto half = hn::Set(d, 0.5f);
  const auto subnormal = hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(d, magnitude), half)), hn::BitCast(du, half));
  // From 2^16 on: infinity, or a NaN.
  const auto special = hn::IfThenElse(hn::RebindMask(du, below(0x7F800001)), hn::Set(du, 0x7C00), hn::Set(du, 0x7E00));
  const auto finite = hn::IfThenElse(hn::RebindMask(du, below(0x38800000)), subnormal, normal);
  const auto result = hn::IfThenElse(hn::RebindMask(du, below(0x47800000)), finite, special);
  store_low_halves(du, hn::Or(result, sign), to);
}
#endif

template <class D>
HWY_INLINE void store(D /*d*/, hn::Vec<D> value, BFloat16* to) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(hn::Set(du, 0x7FFF), odd));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000));
  const auto is_nan = hn::RebindMask(du, hn::Ne(value, value));
  store_low_halves(du, hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded)), to);
}

// Calls body(d, index) for index = 0, N, 2N ... with a full vector tag, then for each left-over element with a tag of
// one lane: the same arithmetic on each element, and never an access beyond `count`.
template <class Body>
HWY_INLINE void for_lanes(int64_t count, const Body& body) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t index = 0;
  for (; index + lanes <= count; index += lanes) body(d, index);
  for (; index < count; ++index) body(hn::CappedTag<float, 1>(), index);
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
