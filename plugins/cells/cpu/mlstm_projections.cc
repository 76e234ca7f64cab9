// An mLSTM cell's inputs on a CPU. One task is some columns of some positions: their projections by narrow blocks, and
// what these columns add to the gates. The gates are the sums of what all columns add, in their order.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/mlstm_projections.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include <algorithm>
#include <cstring>
#include <utility>

#include "cells/cpu/cpu_layers.h"
#include "cells/cpu/lanes-inl.h"
#include "cells/cpu/prefetch.h"
#include "cells/cpu/tasks.h"

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

constexpr int64_t kColumns = 256;   // of a task, whose weights stay in the nearest cache over its positions
constexpr int64_t kPositions = 16;  // of a task

bool is_padding(const MlstmProjectionsArgs& a, int64_t position) {
  return position % a.sequence >= row_length(a.lengths, position / a.sequence, a.sequence);
}

// What these columns read of the weights.
template <class T>
void prefetch_columns(const MlstmProjectionsArgs& a, int64_t begin, int64_t count) {
  const int64_t rows = 3 * a.heads, row_bytes = count * static_cast<int64_t>(sizeof(T));
  for (const float* weight : {a.q_weight, a.k_weight, a.v_weight}) {
    prefetch_all(weight + begin * a.width, count * a.width * static_cast<int64_t>(sizeof(float)));
  }
  for (const void* gate : {a.i_weight, a.f_weight}) {
    for (int64_t row = 0; row < rows; ++row) {
      prefetch_all(static_cast<const T*>(gate) + row * a.inner + begin, row_bytes);
    }
  }
}

// Columns [begin, begin + count) of one position; `parts`: what they add to the gates, (2, H).
template <class T>
void project_columns(const MlstmProjectionsArgs& a, int64_t position, int64_t begin, int64_t count, float* parts) {
  const int64_t at = position * a.inner + begin, weights = begin * a.width;
  T* const qkv[] = {static_cast<T*>(a.q) + at, static_cast<T*>(a.k) + at, static_cast<T*>(a.v) + at};
  if (is_padding(a, position)) {
    for (T* y : qkv) std::memset(static_cast<void*>(y), 0, static_cast<size_t>(count) * sizeof(T));
    return;
  }
  project(count, a.width, a.x_conv + at, a.q_weight + weights, qkv[0]);
  project(count, a.width, a.x_conv + at, a.k_weight + weights, qkv[1]);
  project(count, a.width, a.x + position * a.x_width + begin, a.v_weight + weights, qkv[2]);
  for (const void* gate : {a.i_weight, a.f_weight}) {
    for (int64_t head = 0; head < a.heads; ++head) {
      const T* row = static_cast<const T*>(gate) + head * 3 * a.inner + begin;
      float sum = 0;
      for (const T* y : qkv) {
        sum += dot(count, y, row);
        row += a.inner;
      }
      *parts++ = sum;
    }
  }
}

// The gates of one position. `parts`: (chunks, 2, H).
template <class T>
void add_parts(const MlstmProjectionsArgs& a, int64_t position, int64_t chunks, const float* parts) {
  const std::pair<const void*, void*> gates[] = {{a.i_bias, a.i}, {a.f_bias, a.f}};
  const bool padding = is_padding(a, position);
  for (const auto& [bias, gate] : gates) {
    for (int64_t head = 0; head < a.heads; ++head, ++parts) {
      float sum = padding ? 0 : load_one(static_cast<const T*>(bias) + head);
      for (int64_t chunk = 0; chunk < chunks && !padding; ++chunk) sum += parts[chunk * 2 * a.heads];
      store(hn::CappedTag<float, 1>(), hn::Set(hn::CappedTag<float, 1>(), sum),
            static_cast<T*>(gate) + position * a.heads + head);
    }
  }
}

}  // namespace

void mlstm_projections_of_positions(const MlstmProjectionsArgs& args, const ParallelFor& parallel_for) {
  // Whole blocks, and whole vectors of them where blocks are no wider.
  const int64_t columns = std::max<int64_t>(1, kColumns / args.width) * args.width;
  const int64_t positions = args.batch * args.sequence, chunks = (args.inner + columns - 1) / columns;
  const int64_t size = chunks * 2 * args.heads, rounds = (positions + kPositions - 1) / kPositions;
  Scratch<1024> scratch(positions * size);
  float* const parts = scratch.data();
  const int64_t weights = 3 * columns * (args.width + 2 * args.heads) * static_cast<int64_t>(sizeof(float));
  dispatch_type(args.type, [&](auto zero) HWY_ATTR {
    using T = decltype(zero);
    parallel_for(rounds * chunks, weights * (1 + std::min(positions, kPositions) / 4), [&](int64_t task) HWY_ATTR {
      const int64_t chunk = task % chunks, begin = chunk * columns, count = std::min(columns, args.inner - begin);
      const int64_t first = task / chunks * kPositions;
      prefetch_columns<T>(args, begin, count);
      for (int64_t position = first; position < std::min(positions, first + kPositions); ++position) {
        project_columns<T>(args, position, begin, count, parts + position * size + chunk * 2 * args.heads);
      }
    });
    for (int64_t position = 0; position < positions; ++position) {
      add_parts<T>(args, position, chunks, parts + position * size);
    }
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
