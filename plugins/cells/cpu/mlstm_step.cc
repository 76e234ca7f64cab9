// One position of the mLSTM on a CPU. The memory C is the only large thing: it is read once and written once, and
// everything that touches it (decay, outer product, query) is fused into that one pass. M is the type it is stored as.
//
// Two parts for each head: the normaliser part (gates, m, n and the divisor; DK floats), and the memory part, which is
// split over columns of C where there are fewer heads than threads. Columns are independent of each other, so no result
// depends on the split.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/mlstm_step.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>

#include "cells/cell_math.h"
#include "cells/cpu/cpu_cells.h"
#include "cells/cpu/lanes-inl.h"
#include "cells/cpu/mlstm_parts.h"
#include "cells/cpu/tasks.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

// Columns of C that one task holds at most: their numerators and values lie on its stack.
constexpr int64_t kMaxColumns = 1024;
// Rows of C in one sweep over the columns: numerators and values are then loaded once for all of them.
constexpr int64_t kRows = 4;

// What the normaliser part leaves for the memory part of one head.
struct Position {
  float forget;   // F
  float input;    // I * k_scale, the factor on the keys
  float divisor;  // max(|n' q|, exp(-m')) + eps
};

// n' = F n + I k_scale k; returns n' . q.
template <class T>
float advance_normaliser(int64_t count, Position p, const T* q, const T* k, const float* n_in, float* n_out) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto dot = hn::Zero(d);
  int64_t r = 0;
  for (; r + lanes <= count; r += lanes) {
    const auto n = hn::MulAdd(hn::Set(d, p.input), load(d, k + r), hn::Mul(hn::Set(d, p.forget), load(d, n_in + r)));
    store(d, n, n_out + r);
    dot = hn::MulAdd(n, load(d, q + r), dot);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, dot));
  for (; r < count; ++r) {
    n_out[r] = p.input * load_one(k + r) + p.forget * n_in[r];
    sum += n_out[r] * load_one(q + r);
  }
  return sum;
}

// m, n and what the memory part needs, of one head.
template <class T>
void normaliser_part(const MlstmArgs& a, int64_t head, Position& p) {
  const T *q = static_cast<const T*>(a.q), *k = static_cast<const T*>(a.k);
  const T *i = static_cast<const T*>(a.i), *f = static_cast<const T*>(a.f);
  const float* n_in = a.n_in + head * a.dim_qk;
  float* n_out = a.n_out + head * a.dim_qk;
  const float m = a.m_in[head];
  if (row_length(a, head) == 0) {
    a.m_out[head] = m;
    if (n_in != n_out) std::memcpy(n_out, n_in, a.dim_qk * sizeof(float));
    return;
  }
  const int64_t row = head * a.dim_qk;
  const MlstmGates<float> gates = mlstm_gates(load_one(i + head), load_one(f + head), m, a.gate_soft_cap);
  p.forget = gates.forget;
  p.input = gates.input * a.k_scale;
  const float n_dot_q = advance_normaliser(a.dim_qk, p, q + row, k + row, n_in, n_out) * a.q_scale;
  p.divisor = mlstm_normaliser(n_dot_q, gates.m, a.eps);
  a.m_out[head] = gates.m;
}

// C' = F C + (input k) v^T and numerator += C'^T (q_scale q), for `rows` rows. key and query hold the complete factors
// of each row. kStream: past the caches, which needs floats, and aligned whole cache lines.
template <int rows, bool kStream, class M>
HWY_INLINE void advance_rows(int64_t columns, int64_t stride, float forget, const float* key, const float* query,
                             const float* value, const M* C_in, M* C_out, float* numerator) {
  const auto advance = [&](auto d, auto vectors, int64_t c) HWY_ATTR {
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    hn::Vec<decltype(d)> v[vectors], sum[vectors];
    for (int j = 0; j < vectors; ++j) {
      v[j] = hn::LoadU(d, value + c + j * lanes);
      sum[j] = hn::LoadU(d, numerator + c + j * lanes);
    }
    for (int r = 0; r < rows; ++r) {
      // The rows of the next sweep, ahead of the hardware's prefetcher, which stops at every page. It never faults.
      if constexpr (!kStream) hwy::Prefetch(C_in + (r + rows) * stride + c);
      const auto decay = hn::Set(d, forget), k = hn::Set(d, key[r]), q = hn::Set(d, query[r]);
      for (int j = 0; j < vectors; ++j) {
        const int64_t at = r * stride + c + j * lanes;
        const auto memory = hn::MulAdd(k, v[j], hn::Mul(decay, load(d, C_in + at)));
        if constexpr (kStream) {
          hn::Stream(memory, d, C_out + at);
        } else {
          store(d, memory, C_out + at);
        }
        sum[j] = hn::MulAdd(q, memory, sum[j]);
      }
    }
    for (int j = 0; j < vectors; ++j) hn::StoreU(sum[j], d, numerator + c + j * lanes);
  };
  // One cache line of floats of each row at a time: stores past the caches go out in whole lines.
  const hn::ScalableTag<float> d;
  constexpr int kVectors = HWY_LANES(float) == 1 ? 1 : HWY_LANES(float) >= kLine ? 1 : kLine / HWY_LANES(float);
  constexpr int64_t kStep = kVectors * HWY_LANES(float);
  int64_t c = 0;
  for (; c + kStep <= columns; c += kStep) advance(d, std::integral_constant<int, kVectors>(), c);
  for (; c < columns; ++c) advance(hn::CappedTag<float, 1>(), std::integral_constant<int, 1>(), c);
}

// `columns` columns of one head's C.
template <bool kStream, class T, class M>
void advance_memory(const MlstmArgs& a, Position p, const T* q, const T* k, const T* v, int64_t columns, const M* C_in,
                    M* C_out, T* h) {
  HWY_ALIGN_MAX float value[kMaxColumns];
  HWY_ALIGN_MAX float numerator[kMaxColumns];
  for_lanes(columns, [&](auto d, int64_t c) HWY_ATTR {
    hn::StoreU(load(d, v + c), d, value + c);
    hn::StoreU(hn::Zero(d), d, numerator + c);
  });
  float key[kRows], query[kRows];
  int64_t row = 0;
  const auto factors = [&](int64_t rows) HWY_ATTR {
    for (int64_t r = 0; r < rows; ++r) {
      key[r] = p.input * load_one(k + row + r);
      query[r] = a.q_scale * load_one(q + row + r);
    }
  };
  for (; row + kRows <= a.dim_qk; row += kRows) {
    factors(kRows);
    advance_rows<kRows, kStream>(columns, a.dim_v, p.forget, key, query, value, C_in + row * a.dim_v,
                                 C_out + row * a.dim_v, numerator);
  }
  for (; row < a.dim_qk; ++row) {
    factors(1);
    advance_rows<1, kStream>(columns, a.dim_v, p.forget, key, query, value, C_in + row * a.dim_v, C_out + row * a.dim_v,
                             numerator);
  }
  for_lanes(columns, [&](auto d, int64_t c)
                         HWY_ATTR { store(d, hn::Div(hn::LoadU(d, numerator + c), hn::Set(d, p.divisor)), h + c); });
}

// Columns [begin, end) of one head's C.
template <class T, class M>
void memory_part(const MlstmArgs& a, int64_t head, int64_t begin, int64_t end, Position p, bool stream) {
  const int64_t columns = end - begin, qk = head * a.dim_qk, out = head * a.dim_v + begin;
  const T *q = static_cast<const T*>(a.q) + qk, *k = static_cast<const T*>(a.k) + qk;
  const T* v = static_cast<const T*>(a.v) + out;
  T* h = static_cast<T*>(a.h) + out;
  const M* C_in = static_cast<const M*>(a.C_in) + qk * a.dim_v + begin;
  M* C_out = static_cast<M*>(a.C_out) + qk * a.dim_v + begin;
  if (row_length(a, head) == 0) {
    for (int64_t r = 0; C_in != C_out && r < a.dim_qk; ++r) {
      std::memcpy(static_cast<void*>(C_out + r * a.dim_v), C_in + r * a.dim_v, columns * sizeof(M));
    }
    if (a.sequence == 1) std::memset(static_cast<void*>(h), 0, columns * sizeof(T));
    return;
  }
  if constexpr (std::is_same_v<M, float>) {
    if (stream) {
      advance_memory<true>(a, p, q, k, v, columns, C_in, C_out, h);
      return hwy::FlushStream();
    }
  }
  advance_memory<false>(a, p, q, k, v, columns, C_in, C_out, h);
}

// Stores past the caches pay where C goes to another buffer and is too large to be found in a cache at the next token:
// they save reading the lines that are about to be overwritten.
HWY_INLINE bool should_stream(const MlstmArgs& a) {
  constexpr int64_t kLargeBytes = 1 << 20;
  const int64_t bytes = a.batch * a.heads * a.dim_qk * a.dim_v * static_cast<int64_t>(sizeof(float));
  const bool aligned = a.dim_v % kLine == 0 && reinterpret_cast<uintptr_t>(a.C_out) % (kLine * sizeof(float)) == 0;
  return a.memory_type == DataType::kFloat32 && a.C_in != a.C_out && aligned && bytes >= kLargeBytes;
}

// Columns of C for one task: all of them where the heads alone keep the threads evenly busy.
int64_t task_columns(const MlstmArgs& a, int64_t heads, int64_t threads) {
  constexpr int64_t kMinColumns = 64;
  int64_t splits = (a.dim_v + kMaxColumns - 1) / kMaxColumns;
  const auto columns = [&] {  // whole cache lines
    const int64_t even = (a.dim_v + splits - 1) / splits;
    return (even + kLine - 1) / kLine * kLine;
  };
  while (columns() > kMinColumns && !is_balanced(heads * splits, threads)) ++splits;
  return columns();
}

template <class T, class M>
void mlstm_typed(const MlstmArgs& a, const ParallelFor& parallel_for) {
  const int64_t heads = a.batch * a.heads;
  if (heads == 0) return;
  const std::unique_ptr<Position[]> positions(new Position[heads]);
  const bool stream = should_stream(a);
  const int64_t columns = task_columns(a, heads, parallel_for.threads);
  const int64_t splits = (a.dim_v + columns - 1) / columns;
  const auto normaliser = [&](int64_t head) HWY_ATTR { normaliser_part<T>(a, head, positions[head]); };
  const auto memory = [&](int64_t head, int64_t split) HWY_ATTR {
    const int64_t begin = split * columns, end = std::min(begin + columns, a.dim_v);
    memory_part<T, M>(a, head, begin, end, positions[head], stream);
  };
  const int64_t normaliser_bytes = 4 * a.dim_qk * static_cast<int64_t>(sizeof(float));
  const int64_t memory_bytes = 2 * a.dim_qk * columns * static_cast<int64_t>(sizeof(M));
  if (splits == 1) {
    parallel_for(heads, memory_bytes, [&](int64_t head) HWY_ATTR {
      normaliser(head);
      memory(head, 0);
    });
  } else {
    parallel_for(heads, normaliser_bytes, normaliser);
    parallel_for(heads * splits, memory_bytes, [&](int64_t task) HWY_ATTR { memory(task / splits, task % splits); });
  }
}

}  // namespace

// At most one position.
void mlstm_step(const MlstmArgs& args, const ParallelFor& parallel_for) {
  dispatch_type(args.type, [&](auto activation) HWY_ATTR {
    dispatch_type(args.memory_type, [&](auto memory) HWY_ATTR {
      mlstm_typed<decltype(activation), decltype(memory)>(args, parallel_for);
    });
  });
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace xlstm::cpu {

void mlstm(const MlstmArgs& args, const ParallelFor& parallel_for) {
  static constexpr Variant<void(const MlstmArgs&, const ParallelFor&)> variants[] = XLSTM_VARIANTS(mlstm_step);
  if (args.sequence > 1) return mlstm_chunkwise(args, parallel_for);
  choose(variants)(args, parallel_for);
}

}  // namespace xlstm::cpu
#endif
