// One position of the sLSTM on a CPU. One task is a few output rows of one head, for all rows of the batch: it reads
// its rows of R once (they stay in the nearest cache over the batch), and finishes these elements with the pointwise
// part.
//
// Every element of the next y needs every element of the last, so the old y is copied first; c, n and m belong to their
// element alone.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/slstm_step.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "cells/cpu/cpu_cells.h"
#include "cells/cpu/lanes-inl.h"
#include "cells/cpu/slstm_parts.h"
#include "cells/cpu/slstm_pointwise-inl.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kUnits = 16;    // elements of one head that a tile holds: a whole number of vectors
constexpr int64_t kAhead = 4096;  // bytes of R of each gate, which are four streams; the processor's own stops at pages
constexpr int64_t kTileRows = 32;  // rows of the batch that a tile holds
// Rows of the batch in one sweep over R: with four gates, as many sums as fit into the registers.
constexpr int kSweepRows = HWY_LANES(float) >= 16 || HWY_ARCH_ARM_A64 ? 4 : 2;

// Recurrent parts of the pre-activations of a tile.
using Tile = float[kTileRows][kGates][kUnits];

// tile[row][g][unit] = R[h, g, j + unit, :] . y[row, h, :] for four gates of one unit and `rows` rows of the batch.
// R: of this head, gate 0 and this unit; y: of the first of the rows, and this head.
template <int rows, class TR>
HWY_INLINE void recurrent_dots(const SlstmArgs& a, const TR* R, const float* y, int64_t unit, Tile& tile, int64_t row) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), gate_stride = a.dim * a.dim, row_stride = a.heads * a.dim;
  hn::Vec<decltype(d)> sums[rows][kGates];
  for (auto& row_sums : sums) {
    for (auto& sum : row_sums) sum = hn::Zero(d);
  }
  int64_t in = 0;
  for (; in + lanes <= a.dim; in += lanes) {
    hn::Vec<decltype(d)> old[rows];
    for (int r = 0; r < rows; ++r) old[r] = hn::LoadU(d, y + r * row_stride + in);
    for (int64_t g = 0; g < kGates; ++g) {
      const auto weights = load(d, R + g * gate_stride + in);
      if (rows == 1) hwy::Prefetch(R + g * gate_stride + in + kAhead / static_cast<int64_t>(sizeof(TR)));
      for (int r = 0; r < rows; ++r) sums[r][g] = hn::MulAdd(weights, old[r], sums[r][g]);
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < kGates; ++g) {
      float sum = hn::GetLane(hn::SumOfLanes(d, sums[r][g]));
      for (int64_t rest = in; rest < a.dim; ++rest) {
        sum += load_one(R + g * gate_stride + rest) * y[r * row_stride + rest];
      }
      tile[row + r][g][unit] = sum;
    }
  }
}

// Some elements of one row, in whole vectors.
struct Units {
  HWY_ALIGN_MAX float gate[kGates][kUnits];  // complete pre-activations
  HWY_ALIGN_MAX float y[kUnits], c[kUnits], n[kUnits], m[kUnits];
};

HWY_NOINLINE void advance_states(Units& u, float forget_clamp) {
  const hn::CappedTag<float, kUnits> d;
  for (int64_t at = 0; at < kUnits; at += static_cast<int64_t>(hn::Lanes(d))) {
    const auto gate = [&](int64_t g) HWY_ATTR { return hn::Load(d, u.gate[g] + at); };
    pointwise(d, gate(0), gate(1), gate(2), gate(3), forget_clamp, u.y + at, u.c + at, u.n + at, u.m + at);
  }
}

// Units [begin, end) of head h for the whole batch. At most kUnits of them. y: the old one.
template <class T, class TR>
void advance_units(const SlstmArgs& a, const float* y, int64_t h, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(a.x);
  const TR* R = static_cast<const TR*>(a.R) + h * kGates * a.dim * a.dim;
  T* hidden = static_cast<T*>(a.hidden);
  const int64_t count = end - begin, width = a.heads * a.dim, at = h * a.dim;
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  Tile tile;
  Units u{};  // lanes beyond `count` compute on zeros
  for (int64_t first = 0; first < a.batch; first += kTileRows) {
    const int64_t rows = std::min(kTileRows, a.batch - first);
    for (int64_t unit = 0; unit < count; ++unit) {
      const TR* weights = R + (begin + unit) * a.dim;
      const float* old = y + first * width + at;
      int64_t row = 0;
      for (; row + kSweepRows <= rows; row += kSweepRows) {
        recurrent_dots<kSweepRows>(a, weights, old + row * width, unit, tile, row);
      }
      for (; row < rows; ++row) recurrent_dots<1>(a, weights, old + row * width, unit, tile, row);
    }
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t b = first + row, state = b * width + at + begin;
      T* out = hidden + state;
      std::memcpy(u.c, a.c_in + state, bytes);
      std::memcpy(u.n, a.n_in + state, bytes);
      std::memcpy(u.m, a.m_in + state, bytes);
      if (a.lengths != nullptr && a.lengths[b] <= 0) {
        std::memcpy(u.y, y + state, bytes);
        std::memset(static_cast<void*>(out), 0, static_cast<size_t>(count) * sizeof(T));
      } else {
        for (int64_t g = 0; g < kGates; ++g) {
          const T* input = x + (b * kGates + g) * width + at + begin;
          const float* bias = a.b + g * width + at + begin;
          for_lanes(count, [&](auto d, int64_t unit) HWY_ATTR {
            const auto raw = hn::Add(load(d, input + unit), hn::LoadU(d, tile[row][g] + unit));
            hn::StoreU(hn::Add(raw, hn::LoadU(d, bias + unit)), d, u.gate[g] + unit);
          });
        }
        advance_states(u, a.forget_clamp);
        for_lanes(count, [&](auto d, int64_t unit) HWY_ATTR { store(d, hn::LoadU(d, u.y + unit), out + unit); });
      }
      std::memcpy(a.y_out + state, u.y, bytes);
      std::memcpy(a.c_out + state, u.c, bytes);
      std::memcpy(a.n_out + state, u.n, bytes);
      std::memcpy(a.m_out + state, u.m, bytes);
    }
  }
}

template <class T, class TR>
void slstm_typed(const SlstmArgs& a, const ParallelFor& parallel_for) {
  const int64_t count = a.batch * a.heads * a.dim;
  if (count == 0) return;
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  if (a.sequence == 0) {
    const std::pair<const float*, float*> states[] = {
        {a.y_in, a.y_out}, {a.c_in, a.c_out}, {a.n_in, a.n_out}, {a.m_in, a.m_out}};
    for (const auto& [in, out] : states) {
      if (in != out) std::memcpy(out, in, bytes);
    }
    return;
  }
  const std::unique_ptr<float[]> y(new float[count]);
  std::memcpy(y.get(), a.y_in, bytes);

  // Several tiles in a task where there are plenty: about four tasks a thread even out their ends.
  const int64_t tiles = (a.dim + kUnits - 1) / kUnits;
  const int64_t wanted = std::max<int64_t>(1, 4 * parallel_for.threads / std::max<int64_t>(1, a.heads));
  const int64_t tiles_each = std::max<int64_t>(1, tiles / wanted);
  const int64_t splits = (tiles + tiles_each - 1) / tiles_each;
  // R comes from memory for the first sweep over the batch, from the nearest cache for the others.
  const int64_t sweeps = (a.batch + kSweepRows - 1) / kSweepRows;
  const int64_t bytes_each = sweeps * tiles_each * kUnits * kGates * a.dim * static_cast<int64_t>(sizeof(float));
  parallel_for(a.heads * splits, bytes_each, [&](int64_t task) HWY_ATTR {
    const int64_t h = task / splits, first = task % splits * tiles_each, last = std::min(first + tiles_each, tiles);
    for (int64_t tile = first; tile < last; ++tile) {
      advance_units<T, TR>(a, y.get(), h, tile * kUnits, std::min((tile + 1) * kUnits, a.dim));
    }
  });
}

}  // namespace

// At most one position.
void slstm_step(const SlstmArgs& args, const ParallelFor& parallel_for) {
  dispatch_type(args.type, [&](auto zero) HWY_ATTR {
    using T = decltype(zero);
    const bool is_float = args.recurrent_type == DataType::kFloat32;
    is_float ? slstm_typed<T, float>(args, parallel_for) : slstm_typed<T, T>(args, parallel_for);
  });
}

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace xlstm::cpu {

void slstm(const SlstmArgs& args, const ParallelFor& parallel_for) {
  static constexpr Variant<void(const SlstmArgs&, const ParallelFor&)> variants[] = XLSTM_VARIANTS(slstm_step);
  if (args.sequence > 1) return slstm_sequence(args, parallel_for);
  choose(variants)(args, parallel_for);
}

}  // namespace xlstm::cpu
#endif
