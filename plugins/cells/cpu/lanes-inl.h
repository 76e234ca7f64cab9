// Loading and storing the three activation types as float vectors. Compiled once for each instruction set: include it
// after hwy/foreach_target.h, as Highway's own -inl.h files.
#if defined(XLSTM_CELLS_CPU_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef XLSTM_CELLS_CPU_LANES_INL_H_
#undef XLSTM_CELLS_CPU_LANES_INL_H_
#else
#define XLSTM_CELLS_CPU_LANES_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Storage of an activation; the arithmetic is always float.
using Float16 = hwy::float16_t;
using BFloat16 = hwy::bfloat16_t;

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

template <class D>
HWY_INLINE void store(D /*d*/, hn::Vec<D> value, Float16* to) {
  const hn::Rebind<Float16, D> narrow;
  hn::StoreU(hn::DemoteTo(narrow, value), narrow, to);
}

// Rounds to nearest, ties to even (Highway's own demotion truncates before version 1.1). Every finite float and both
// infinities become a bfloat16; a NaN stays one.
template <class D>
HWY_INLINE void store(D /*d*/, hn::Vec<D> value, BFloat16* to) {
  const hn::RebindToUnsigned<D> bits_tag;
  const hn::RebindToSigned<D> signed_tag;
  const hn::Rebind<uint16_t, D> narrow;
  const auto bits = hn::BitCast(bits_tag, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(bits_tag, 1));
  const auto rounded = hn::Add(bits, hn::Add(hn::Set(bits_tag, 0x7FFF), odd));
  const auto quiet = hn::Or(bits, hn::Set(bits_tag, 0x400000));
  const auto is_nan = hn::RebindMask(bits_tag, hn::Ne(value, value));
  const auto high = hn::ShiftRight<16>(hn::IfThenElse(is_nan, quiet, rounded));
  hn::StoreU(hn::DemoteTo(narrow, hn::BitCast(signed_tag, high)), narrow, reinterpret_cast<uint16_t*>(to));
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
