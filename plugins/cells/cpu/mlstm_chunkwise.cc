// mLSTM over a sequence on a CPU, chunk by chunk: the memory C moves through the caches once in a span of positions,
// and nearly all of the work is products of matrices.
//
// The positions t of a chunk that starts with the states C, n, m (Beck et al. 2024, equations 19 to 27, unrolled):
//   m_t  = max(lf_t + m_{t-1}, i_t)  with lf = log sigmoid(f): the recurrence itself, so bit-equal to single steps
//   D_ts = (sum of lf_u for s < u <= t) + i_s
//   g_t  = (sum of lf_u for u <= t) + m
//   P_ts = (q_t . k_s) exp(D_ts - m_t),  w_t = exp(g_t - m_t)
//   h_t  = (w_t C^T q_t + sum over s <= t of P_ts v_s) / (max(|w_t n . q_t + sum of P_ts|, exp(-m_t)) + eps)
//   C'   = w_e C + sum of k_s exp(D_es - m_e) v_s^T  with e the last position; n' likewise, m' = m_e
// D and g are running sums. A difference of cumulative sums would lose all digits after one strongly negative lf. The
// exponents are at most 0 but for the rounding of these sums, and are cut there.
//
// Four parts, each in parallel: gates (a head), scores (a chunk of a head), normaliser (a head), memory (some columns
// of a head's C). Chunks lie where they lie, and columns are independent of each other: no result depends on the tasks.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/mlstm_chunkwise.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include <algorithm>
#include <cstring>
#include <memory>

#include "cells/cell_math.h"
#include "cells/cpu/cpu_cells.h"
#include "cells/cpu/lanes-inl.h"
#include "cells/cpu/matrix-inl.h"
#include "cells/cpu/mlstm_parts.h"
#include "cells/cpu/tasks.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kChunk = 64;               // positions of a chunk at most
constexpr int64_t kSpan = 4 * kChunk;        // positions between two passes over C at most
constexpr int64_t kScratchFloats = 4 << 20;  // for all heads at once, where shorter spans can keep to it

// How a call is cut. Only `chunk` has a say in the results, and it depends on the sequence alone.
struct Plan {
  int64_t chunk;          // positions
  int64_t span;           // positions, a whole number of chunks
  int64_t heads;          // at once
  int64_t columns;        // of one memory task, a whole number of panels
  int64_t splits;         // memory tasks of a head
  int64_t padded_dim_qk;  // in whole tiles
};

// Positions [begin, begin + count).
struct Span {
  int64_t begin, count;
};

// Scratch memory of one head for a span. Rows that fill up a tile hold zeros.
struct Head {
  float *log_input, *log_forget;
  float* carry;    // w
  float* keep;     // exp(D_es - m_e), for the last position e of each chunk
  float* divisor;  // of h; before the normaliser part, the sum of P_ts over s
  float* m;        // m[t] before position t, m[t + 1] after it
  float* q;        // [position][DK]: q_scale q
  float* k;        // [chunk][DK][position]: k_scale k
  float* p;        // [chunk][position][position]: P

  static int64_t size(const MlstmArgs& a, const Plan& plan) {
    return plan.span * (6 + a.dim_qk + plan.padded_dim_qk + plan.chunk) + kLine;
  }
  Head(const MlstmArgs& a, const Plan& plan, float* scratch) {
    for (float** part : {&log_input, &log_forget, &carry, &keep, &divisor, &m}) {
      *part = scratch;
      scratch += plan.span;
    }
    q = m + plan.span + kLine;
    k = q + plan.span * a.dim_qk;
    p = k + plan.span * plan.padded_dim_qk;
  }
};

// Scratch memory of one memory task: a panel of columns.
struct Panel {
  float* C;           // [DK]
  float* value;       // [position]: v
  float* kept_value;  // [position]: keep v
  float* numerator;   // [position]

  static int64_t size(const Plan& plan) { return (plan.padded_dim_qk + 3 * plan.chunk) * kPanel; }
  Panel(const Plan& plan, float* scratch)
      : C(scratch),
        value(C + plan.padded_dim_qk * kPanel),
        kept_value(value + plan.chunk * kPanel),
        numerator(kept_value + plan.chunk * kPanel) {}
};

HWY_INLINE int64_t valid_positions(const MlstmArgs& a, int64_t head, Span span) {
  return std::clamp<int64_t>(row_length(a, head) - span.begin, 0, span.count);
}

// The gates of one head, and m.
template <class T>
void gates_part(const MlstmArgs& a, Span span, int64_t head, const Head& s) {
  const T *i = static_cast<const T*>(a.i), *f = static_cast<const T*>(a.f);
  s.m[0] = (span.begin == 0 ? a.m_in : a.m_out)[head];
  const int64_t valid = valid_positions(a, head, span);
  for (int64_t t = 0; t < valid; ++t) {
    const int64_t gate = activation_offset(a, head, span.begin + t, 1);
    s.log_input[t] = soft_cap(load_one(i + gate), a.gate_soft_cap);
    s.log_forget[t] = log_sigmoid(soft_cap(load_one(f + gate), a.gate_soft_cap));
    s.m[t + 1] = maximum(s.log_forget[t] + s.m[t], s.log_input[t]);
  }
  a.m_out[head] = s.m[valid];
}

// q, k and P of one chunk of one head, and its weights w and keep.
template <class T>
void scores_part(const MlstmArgs& a, const Plan& plan, Span span, int64_t head, int64_t first, const Head& s) {
  const int64_t valid = std::min(plan.chunk, valid_positions(a, head, span) - first);
  if (valid <= 0) return;
  const int64_t rows = round_up(valid, kTileRows), stride = a.heads * a.dim_qk;
  const int64_t at = activation_offset(a, head, span.begin + first, a.dim_qk);
  const T *q_in = static_cast<const T*>(a.q) + at, *k_in = static_cast<const T*>(a.k) + at;
  float *q = s.q + first * a.dim_qk, *k = s.k + first * plan.padded_dim_qk, *p = s.p + first * plan.chunk;
  for (int64_t t = 0; t < valid; ++t) scaled_copy(a.dim_qk, a.q_scale, q_in + t * stride, q + t * a.dim_qk);
  std::fill(q + valid * a.dim_qk, q + rows * a.dim_qk, 0.0f);
  if (valid < plan.chunk) std::fill(k, k + a.dim_qk * plan.chunk, 0.0f);
  std::fill(k + a.dim_qk * plan.chunk, k + plan.padded_dim_qk * plan.chunk, 0.0f);
  transpose<T>(valid, a.dim_qk, a.k_scale, {k_in, stride}, {k, plan.chunk});

  std::fill(p, p + rows * plan.chunk, 0.0f);
  const float none = 0;
  for (int64_t t = 0; t < rows; t += kTileRows) {
    const int64_t seen = std::min(t + kTileRows, plan.chunk);
    for (int64_t c = 0; c < seen; c += kPanel) {
      product(kTileRows, std::min(kPanel, seen - c), a.dim_qk, {q + t * a.dim_qk, a.dim_qk}, {k + c, plan.chunk}, &none,
              0, {p + t * plan.chunk + c, plan.chunk});
    }
  }

  // Row t of D from row t - 1; from it the weights, which for the last row are those of the next state.
  const hn::ScalableTag<float> d;
  const auto zero = hn::Zero(d);
  HWY_ALIGN_MAX float exponent[kChunk] = {}, weight[kChunk] = {};
  float* carry = s.carry + first;
  for (int64_t t = 0; t < valid; ++t) {
    const float log_forget = s.log_forget[first + t], m = s.m[first + t + 1];
    const int64_t seen = std::min(round_up(t + 1, kTileRows), plan.chunk);
    for (int64_t c = 0; c < t; c += kLanes) {
      hn::Store(hn::Add(hn::Load(d, exponent + c), hn::Set(d, log_forget)), d, exponent + c);
    }
    exponent[t] = s.log_input[first + t];
    float* row = p + t * plan.chunk;
    auto sum = zero;
    for (int64_t c = 0; c < seen; c += kLanes) {
      const auto until_now = hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(t + 1 - c, 0, kLanes)));
      const auto decayed = hn::Exp(d, hn::Min(hn::Sub(hn::Load(d, exponent + c), hn::Set(d, m)), zero));
      const auto weights = hn::IfThenElseZero(until_now, decayed);
      const auto weighted = hn::IfThenElseZero(until_now, hn::Mul(weights, hn::LoadU(d, row + c)));
      hn::Store(weights, d, weight + c);
      hn::StoreU(weighted, d, row + c);
      sum = hn::Add(sum, weighted);
    }
    s.divisor[first + t] = hn::GetLane(hn::SumOfLanes(d, sum));
    carry[t] = (t == 0 ? s.m[first] : carry[t - 1]) + log_forget;
  }
  std::copy(weight, weight + plan.chunk, s.keep + first);
  for_lanes(valid, [&](auto lanes, int64_t t) HWY_ATTR {
    const auto decayed = hn::Sub(hn::LoadU(lanes, carry + t), hn::LoadU(lanes, s.m + first + t + 1));
    hn::StoreU(hn::Exp(lanes, hn::Min(decayed, hn::Zero(lanes))), lanes, carry + t);
  });
  std::fill(carry + valid, carry + rows, 0.0f);
}

// n over all chunks of one head, and the divisors.
void normaliser_part(const MlstmArgs& a, const Plan& plan, Span span, int64_t head, const Head& s) {
  float* n = a.n_out + head * a.dim_qk;
  const float* n_in = a.n_in + head * a.dim_qk;
  if (span.begin == 0 && n != n_in) std::copy(n_in, n_in + a.dim_qk, n);
  const int64_t valid = valid_positions(a, head, span);
  for (int64_t first = 0; first < valid; first += plan.chunk) {
    const int64_t end = std::min(first + plan.chunk, valid);
    for (int64_t t = first; t < end; ++t) {
      const float carried = s.carry[t] * dot(a.dim_qk, n, s.q + t * a.dim_qk);
      s.divisor[t] = mlstm_normaliser(carried + s.divisor[t], s.m[t + 1], a.eps);
    }
    const float* k = s.k + first * plan.padded_dim_qk;
    for (int64_t r = 0; r < a.dim_qk; ++r) {
      n[r] = s.carry[end - 1] * n[r] + dot(plan.chunk, s.keep + first, k + r * plan.chunk);
    }
  }
}

// One chunk of a panel: h at its positions, and C after it.
template <class T>
void advance_panel(const MlstmArgs& a, const Plan& plan, const Head& s, const Panel& panel, int64_t first,
                   int64_t positions, int64_t columns, const T* v, T* h) {
  const int64_t rows = round_up(positions, kTileRows), stride = a.heads * a.dim_v;
  for (int64_t t = 0; t < positions; ++t) {
    scaled_copy(columns, 1.0f, v + t * stride, panel.value + t * kPanel);
    scaled_copy(columns, s.keep[first + t], v + t * stride, panel.kept_value + t * kPanel);
  }
  const float *k = s.k + first * plan.padded_dim_qk, *p = s.p + first * plan.chunk, *carry = s.carry + first;
  const float none = 0;
  std::fill(panel.numerator, panel.numerator + rows * kPanel, 0.0f);
  product(rows, columns, a.dim_qk, {s.q + first * a.dim_qk, a.dim_qk}, {panel.C, kPanel}, &none, 0,
          {panel.numerator, kPanel});
  for (int64_t t = 0; t < rows; t += kTileRows) {
    product(kTileRows, columns, std::min(t + kTileRows, positions), {p + t * plan.chunk, plan.chunk},
            {panel.value, kPanel}, carry + t, 1, {panel.numerator + t * kPanel, kPanel});
  }
  for (int64_t t = 0; t < positions; ++t) {
    for_lanes(columns, [&](auto d, int64_t c) HWY_ATTR {
      store(d, hn::Div(hn::LoadU(d, panel.numerator + t * kPanel + c), hn::Set(d, s.divisor[first + t])),
            h + t * stride + c);
    });
  }
  product(plan.padded_dim_qk, columns, positions, {k, plan.chunk}, {panel.kept_value, kPanel}, carry + positions - 1, 0,
          {panel.C, kPanel});
}

// Columns [begin, begin + columns) of one head's C, a panel, over a span. Between two spans C is stored as M, too.
template <class T, class M>
void memory_part(const MlstmArgs& a, const Plan& plan, Span span, int64_t head, int64_t begin, int64_t columns,
                 const Head& s, const Panel& panel) {
  const int64_t valid = valid_positions(a, head, span), stride = a.heads * a.dim_v;
  const int64_t at = activation_offset(a, head, span.begin, a.dim_v) + begin;
  const int64_t memory = head * a.dim_qk * a.dim_v + begin;
  const T* v = static_cast<const T*>(a.v) + at;
  T* h = static_cast<T*>(a.h) + at;
  M* C_out = static_cast<M*>(a.C_out) + memory;
  const M* C_in = span.begin == 0 ? static_cast<const M*>(a.C_in) + memory : C_out;
  if (valid > 0 || C_in != C_out) {
    std::fill(panel.C, panel.C + plan.padded_dim_qk * kPanel, 0.0f);
    for (int64_t r = 0; r < a.dim_qk; ++r) scaled_copy(columns, 1.0f, C_in + r * a.dim_v, panel.C + r * kPanel);
    for (int64_t first = 0; first < valid; first += plan.chunk) {
      advance_panel<T>(a, plan, s, panel, first, std::min(plan.chunk, valid - first), columns, v + first * stride,
                       h + first * stride);
    }
    for (int64_t r = 0; r < a.dim_qk; ++r) {
      for_lanes(columns, [&](auto d, int64_t c)
                             HWY_ATTR { store(d, hn::LoadU(d, panel.C + r * kPanel + c), C_out + r * a.dim_v + c); });
    }
  }
  for (int64_t t = valid; t < span.count; ++t) {
    std::memset(static_cast<void*>(h + t * stride), 0, static_cast<size_t>(columns) * sizeof(T));
  }
}

Plan make_plan(const MlstmArgs& a, int64_t threads) {
  Plan plan{};
  plan.chunk = std::min(kChunk, round_up(a.sequence, kLine));
  plan.span = std::min(kSpan, round_up(a.sequence, plan.chunk));
  plan.padded_dim_qk = round_up(a.dim_qk, kTileRows);
  const int64_t heads = a.batch * a.heads, groups = (heads + 2 * threads - 1) / (2 * threads);
  plan.heads = (heads + groups - 1) / groups;
  while (plan.span > plan.chunk && plan.heads * Head::size(a, plan) > kScratchFloats) plan.span -= plan.chunk;
  const int64_t panels = (a.dim_v + kPanel - 1) / kPanel;
  plan.splits = 1;
  while (plan.splits < panels && !is_balanced(plan.heads * plan.splits, threads)) ++plan.splits;
  plan.columns = (panels + plan.splits - 1) / plan.splits * kPanel;
  plan.splits = (a.dim_v + plan.columns - 1) / plan.columns;
  return plan;
}

template <class T, class M>
void mlstm_typed(const MlstmArgs& a, const ParallelFor& parallel_for) {
  const int64_t heads = a.batch * a.heads;
  if (heads == 0) return;
  const Plan plan = make_plan(a, parallel_for.threads);
  const int64_t head_size = Head::size(a, plan), panel_size = Panel::size(plan);
  const int64_t size = plan.heads * (head_size + plan.splits * panel_size);
  const std::unique_ptr<float[]> scratch(new float[size + kLine]);
  float* const head_scratch = aligned(scratch.get());
  float* const panel_scratch = head_scratch + plan.heads * head_size;

  // What a task does, in bytes that take as long to move: about four multiply-adds for each.
  const int64_t gates_bytes = plan.span << 10, normaliser_bytes = plan.span * a.dim_qk;
  const int64_t scores_bytes = plan.chunk * (plan.chunk + 8) * a.dim_qk / 4;
  const int64_t memory_bytes = plan.span * plan.columns * (a.dim_qk + plan.chunk) / 2;
  for (int64_t group = 0; group < heads; group += plan.heads) {
    const int64_t count = std::min(plan.heads, heads - group), chunks = plan.span / plan.chunk;
    const auto head = [&](int64_t index) { return Head(a, plan, head_scratch + index * head_size); };
    for (int64_t begin = 0; begin < a.sequence; begin += plan.span) {
      const Span span{begin, std::min(plan.span, a.sequence - begin)};
      parallel_for(count, gates_bytes, [&](int64_t h) HWY_ATTR { gates_part<T>(a, span, group + h, head(h)); });
      parallel_for(count * chunks, scores_bytes, [&](int64_t task) HWY_ATTR {
        const int64_t h = task / chunks;
        scores_part<T>(a, plan, span, group + h, task % chunks * plan.chunk, head(h));
      });
      parallel_for(count, normaliser_bytes,
                   [&](int64_t h) HWY_ATTR { normaliser_part(a, plan, span, group + h, head(h)); });
      parallel_for(count * plan.splits, memory_bytes, [&](int64_t task) HWY_ATTR {
        const int64_t h = task / plan.splits, first = task % plan.splits * plan.columns;
        const Panel panel(plan, panel_scratch + task * panel_size);
        for (int64_t c = first; c < std::min(first + plan.columns, a.dim_v); c += kPanel) {
          memory_part<T, M>(a, plan, span, group + h, c, std::min(kPanel, a.dim_v - c), head(h), panel);
        }
      });
    }
  }
}

}  // namespace

void mlstm_chunkwise(const MlstmArgs& args, const ParallelFor& parallel_for) {
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

void mlstm_chunkwise(const MlstmArgs& args, const ParallelFor& parallel_for) {
  static constexpr Variant<void(const MlstmArgs&, const ParallelFor&)> variants[] = XLSTM_VARIANTS(mlstm_chunkwise);
  choose(variants)(args, parallel_for);
}

}  // namespace xlstm::cpu
#endif
