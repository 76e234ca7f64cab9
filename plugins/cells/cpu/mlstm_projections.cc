// An mLSTM cell's inputs on a CPU. One task is one position: its projections by narrow blocks, and from them the gates.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/mlstm_projections.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include <cstring>

#include "cells/cpu/cpu_layers.h"
#include "cells/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

// y = W x with blocks (4, 4) on the diagonal of W: a vector holds the outputs of some blocks, and each of their inputs
// is broadcast within its block. Returns how many outputs it made: whole vectors.
template <class T>
int64_t project_blocks_of_4(int64_t count, const float* x, const float* weight, T* y) {
#if HWY_TARGET == HWY_SCALAR
  (void)count, (void)x, (void)weight, (void)y;
  return 0;
#else
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t j = 0;
  for (; j + lanes <= count; j += lanes) {
    hn::Vec<decltype(d)> w0, w1, w2, w3;  // by input
    hn::LoadInterleaved4(d, weight + 4 * j, w0, w1, w2, w3);
    const auto inputs = hn::LoadU(d, x + j);
    auto sum = hn::Mul(w0, hn::Broadcast<0>(inputs));
    sum = hn::MulAdd(w1, hn::Broadcast<1>(inputs), sum);
    sum = hn::MulAdd(w2, hn::Broadcast<2>(inputs), sum);
    sum = hn::MulAdd(w3, hn::Broadcast<3>(inputs), sum);
    store(d, sum, y + j);
  }
  return j;
#endif
}

template <class T>
void project(int64_t count, int64_t width, const float* x, const float* weight, T* y) {
  for (int64_t j = width == 4 ? project_blocks_of_4(count, x, weight, y) : 0; j < count; ++j) {
    const float *block = x + j / width * width, *row = weight + j * width;
    float sum = 0;
    for (int64_t in = 0; in < width; ++in) sum += row[in] * block[in];
    store(hn::CappedTag<float, 1>(), hn::Set(hn::CappedTag<float, 1>(), sum), y + j);
  }
}

// a . b
template <class T>
float dot(int64_t count, const T* a, const T* b) {
  constexpr int kSums = 4;  // enough to hide how long an addition takes
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  hn::Vec<decltype(d)> sums[kSums];
  for (auto& sum : sums) sum = hn::Zero(d);
  int64_t j = 0;
  for (; j + kSums * lanes <= count; j += kSums * lanes) {
    for (int s = 0; s < kSums; ++s) {
      sums[s] = hn::MulAdd(load(d, a + j + s * lanes), load(d, b + j + s * lanes), sums[s]);
    }
  }
  for (; j + lanes <= count; j += lanes) sums[0] = hn::MulAdd(load(d, a + j), load(d, b + j), sums[0]);
  float total = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]))));
  for (; j < count; ++j) total += load_one(a + j) * load_one(b + j);
  return total;
}

template <class T>
void project_position(const MlstmProjectionsArgs& a, int64_t position) {
  const int64_t at = position * a.inner;
  T* const qkv[] = {static_cast<T*>(a.q) + at, static_cast<T*>(a.k) + at, static_cast<T*>(a.v) + at};
  T* const gates[] = {static_cast<T*>(a.i) + position * a.heads, static_cast<T*>(a.f) + position * a.heads};
  if (position % a.sequence >= row_length(a.lengths, position / a.sequence, a.sequence)) {
    for (T* y : qkv) std::memset(static_cast<void*>(y), 0, static_cast<size_t>(a.inner) * sizeof(T));
    for (T* gate : gates) std::memset(static_cast<void*>(gate), 0, static_cast<size_t>(a.heads) * sizeof(T));
    return;
  }
  project(a.inner, a.width, a.x_conv + at, a.q_weight, qkv[0]);
  project(a.inner, a.width, a.x_conv + at, a.k_weight, qkv[1]);
  project(a.inner, a.width, a.x + at, a.v_weight, qkv[2]);
  const void* const weights[] = {a.i_weight, a.f_weight};
  const void* const biases[] = {a.i_bias, a.f_bias};
  for (int gate = 0; gate < 2; ++gate) {
    for (int64_t head = 0; head < a.heads; ++head) {
      const T* row = static_cast<const T*>(weights[gate]) + head * 3 * a.inner;
      float sum = load_one(static_cast<const T*>(biases[gate]) + head);
      for (const T* y : qkv) {
        sum += dot(a.inner, y, row);
        row += a.inner;
      }
      store(hn::CappedTag<float, 1>(), hn::Set(hn::CappedTag<float, 1>(), sum), gates[gate] + head);
    }
  }
}

}  // namespace

void mlstm_projections_of_positions(const MlstmProjectionsArgs& args, const ParallelFor& parallel_for) {
  const int64_t weights = 3 * args.inner * (args.width + 2 * args.heads);
  dispatch_type(args.type, [&](auto zero) HWY_ATTR {
    using T = decltype(zero);
    parallel_for(args.batch * args.sequence, weights * static_cast<int64_t>(sizeof(float)),
                 [&](int64_t position) HWY_ATTR { project_position<T>(args, position); });
  });
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace xlstm::cpu {

void mlstm_projections(const MlstmProjectionsArgs& args, const ParallelFor& parallel_for) {
  static constexpr Variant<void(const MlstmProjectionsArgs&, const ParallelFor&)> variants[] =
      XLSTM_VARIANTS(mlstm_projections_of_positions);
  choose(variants)(args, parallel_for);
}

}  // namespace xlstm::cpu
#endif
