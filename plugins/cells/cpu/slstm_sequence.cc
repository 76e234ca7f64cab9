// sLSTM over a sequence on a CPU. Every element of the next y needs every element of the last, so positions follow each
// other; but heads and rows of the batch never meet, so a task takes a head, and some rows, through the whole sequence
// while R stays in its core's cache. Where that makes fewer tasks than threads, each position is split over the units.
//
// R is transposed once a call: the recurrent part is then a product whose vectors lie along the output units, with no
// sums across lanes. No result depends on the split.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/slstm_sequence.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include <algorithm>
#include <cstring>
#include <memory>

#include "cells/cpu/cpu_cells.h"
#include "cells/cpu/lanes-inl.h"
#include "cells/cpu/matrix-inl.h"
#include "cells/cpu/slstm_parts.h"
#include "cells/cpu/slstm_pointwise-inl.h"
#include "cells/cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

// Units of a panel, whose rows are [gate][unit]: enough vectors in a row to hide the latency of their sums.
constexpr int64_t kUnits = 2 * kLanes;
constexpr int64_t kRowFloats = kGates * kUnits;
constexpr int64_t kRowVectors = kRowFloats / kLanes;
// Rows of the batch that meet a row of R together, with half of its gates: the sums fill the registers.
constexpr int64_t kSweepRows = kLanes >= 16 || HWY_ARCH_ARM_A64 ? 4 : 2;

// Scratch memory. Units that fill up a panel hold zeros.
struct Scratch {
  int64_t units;     // of a head, in whole panels
  int64_t rows;      // of the batch
  float* R;          // [head][panel][in][gate][unit]
  float* y[2];       // [head][row][unit], of even and odd positions
  float *c, *n, *m;  // [head][row][unit]

  static int64_t size(const SlstmArgs& a) { return a.heads * round_up(a.dim, kUnits) * (kGates * a.dim + 5 * a.batch); }
  Scratch(const SlstmArgs& a, float* scratch) : units(round_up(a.dim, kUnits)), rows(a.batch), R(scratch) {
    scratch += a.heads * units * kGates * a.dim;
    for (float** state : {&y[0], &y[1], &c, &n, &m}) {
      *state = scratch;
      scratch += a.heads * rows * units;
    }
  }
  int64_t at(int64_t h, int64_t row) const { return (h * rows + row) * units; }
};

template <class TR>
void pack_panel(const SlstmArgs& a, int64_t h, int64_t first, float* panel) {
  const int64_t count = std::min(kUnits, a.dim - first);
  if (count < kUnits) std::fill(panel, panel + a.dim * kRowFloats, 0.0f);
  for (int64_t g = 0; g < kGates; ++g) {
    const TR* R = static_cast<const TR*>(a.R) + ((h * kGates + g) * a.dim + first) * a.dim;
    transpose<TR>(count, a.dim, 1.0f, {R, a.dim}, {panel + g * kUnits, kRowFloats});
  }
}

int64_t row_length(const SlstmArgs& a, int64_t row) {
  return a.lengths == nullptr ? a.sequence : std::clamp<int64_t>(a.lengths[row], 0, a.sequence);
}

// Positions that any of the rows [row, end) has.
int64_t longest(const SlstmArgs& a, int64_t row, int64_t end) {
  int64_t length = 0;
  for (; row < end; ++row) length = std::max(length, row_length(a, row));
  return length;
}

// gates += R y, for `rows` rows. One row takes all gates at once, several rows half of them at a time.
template <int64_t rows>
HWY_INLINE void add_recurrent(int64_t dim, Rows<const float> y, Rows<const float> panel, float* gates) {
  static constexpr float kOne = 1;
  constexpr int64_t kVectors = rows == 1 ? kRowVectors : kRowVectors / 2;
  for (int64_t column = 0; column < kRowFloats; column += kVectors * kLanes) {
    tile_product<rows, kVectors>(dim, y, {panel.data + column, panel.stride}, &kOne, 0, {gates + column, kRowFloats});
  }
}

// Up to kSweepRows rows of one panel of a head, from unit `first` on, at position t.
template <class T>
void advance_tile(const SlstmArgs& a, const Scratch& s, int64_t t, int64_t h, int64_t row, int64_t rows,
                  int64_t first) {
  const hn::ScalableTag<float> d;
  const float *y = s.y[t % 2], *R = s.R + (h * s.units + first) * kGates * a.dim;
  float* y_next = s.y[(t + 1) % 2];
  const int64_t count = std::min(kUnits, a.dim - first), width = a.heads * a.dim, at = h * a.dim + first;
  HWY_ALIGN_MAX float gates[kSweepRows][kGates][kUnits] = {};
  for (int64_t r = 0; r < rows; ++r) {
    if (t >= row_length(a, row + r)) continue;
    for (int64_t g = 0; g < kGates; ++g) {
      const T* x = static_cast<const T*>(a.x) + (((row + r) * a.sequence + t) * kGates + g) * width + at;
      const float* b = a.b + g * width + at;
      for_lanes(count, [&](auto lanes, int64_t unit) HWY_ATTR {
        hn::StoreU(hn::Add(load(lanes, x + unit), hn::LoadU(lanes, b + unit)), lanes, gates[r][g] + unit);
      });
    }
  }
  const Rows<const float> panel{R, kRowFloats};
  const auto old = [&](int64_t r) { return Rows<const float>{y + s.at(h, row + r), s.units}; };
  int64_t done = 0;
  for (; done + kSweepRows <= rows; done += kSweepRows) {
    add_recurrent<kSweepRows>(a.dim, old(done), panel, gates[done][0]);
  }
  for (; done + 2 <= rows; done += 2) add_recurrent<2>(a.dim, old(done), panel, gates[done][0]);
  for (; done < rows; ++done) add_recurrent<1>(a.dim, old(done), panel, gates[done][0]);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t state = s.at(h, row + r) + first;
    if (t >= row_length(a, row + r)) {
      std::copy_n(y + state, kUnits, y_next + state);
      continue;
    }
    for (int64_t unit = 0; unit < kUnits; unit += kLanes) {
      const auto gate = [&](int64_t g) HWY_ATTR { return hn::Load(d, gates[r][g] + unit); };
      const int64_t j = state + unit;
      pointwise(d, gate(0), gate(1), gate(2), gate(3), a.forget_clamp, y_next + j, s.c + j, s.n + j, s.m + j);
    }
    T* hidden = static_cast<T*>(a.hidden) + ((row + r) * a.sequence + t) * width + at;
    for_lanes(count, [&](auto lanes, int64_t unit)
                         HWY_ATTR { store(lanes, hn::LoadU(lanes, y_next + state + unit), hidden + unit); });
  }
}

// Rows [row, end) of units [first, last) of a head at position t.
template <class T>
void advance(const SlstmArgs& a, const Scratch& s, int64_t t, int64_t h, int64_t row, int64_t end, int64_t first,
             int64_t last) {
  for (; first < last; first += kUnits) {
    for (int64_t r = row; r < end; r += kSweepRows) {
      advance_tile<T>(a, s, t, h, r, std::min(kSweepRows, end - r), first);
    }
  }
}

// Between a state (B, H, DH) and its scratch.
void read_state(const SlstmArgs& a, const Scratch& s, int64_t h, int64_t row, const float* from, float* to) {
  float* units = to + s.at(h, row);
  std::copy_n(from + (row * a.heads + h) * a.dim, a.dim, units);
  std::fill(units + a.dim, units + s.units, 0.0f);
}
void write_state(const SlstmArgs& a, const Scratch& s, int64_t h, int64_t row, const float* from, float* to) {
  std::copy_n(from + s.at(h, row), a.dim, to + (row * a.heads + h) * a.dim);
}

void begin(const SlstmArgs& a, const Scratch& s, int64_t h, int64_t row, int64_t end) {
  for (; row < end; ++row) {
    read_state(a, s, h, row, a.y_in, s.y[0]);
    read_state(a, s, h, row, a.c_in, s.c);
    read_state(a, s, h, row, a.n_in, s.n);
    read_state(a, s, h, row, a.m_in, s.m);
  }
}

// After `positions` positions.
template <class T>
void finish(const SlstmArgs& a, const Scratch& s, int64_t positions, int64_t h, int64_t row, int64_t end) {
  for (; row < end; ++row) {
    write_state(a, s, h, row, s.y[positions % 2], a.y_out);
    write_state(a, s, h, row, s.c, a.c_out);
    write_state(a, s, h, row, s.n, a.n_out);
    write_state(a, s, h, row, s.m, a.m_out);
    for (int64_t t = row_length(a, row); t < a.sequence; ++t) {
      T* hidden = static_cast<T*>(a.hidden) + ((row * a.sequence + t) * a.heads + h) * a.dim;
      std::memset(static_cast<void*>(hidden), 0, static_cast<size_t>(a.dim) * sizeof(T));
    }
  }
}

template <class T, class TR>
void slstm_typed(const SlstmArgs& a, const ParallelFor& parallel_for) {
  if (a.batch * a.heads * a.dim == 0) return;
  const std::unique_ptr<float[]> memory(new float[Scratch::size(a) + kLine]);
  const Scratch s(a, aligned(memory.get()));
  const int64_t threads = parallel_for.threads, panels = s.units / kUnits;
  const int64_t panel_floats = kRowFloats * a.dim, panel_bytes = panel_floats * static_cast<int64_t>(sizeof(float));
  parallel_for(a.heads * panels, 2 * panel_bytes, [&](int64_t task) HWY_ATTR {
    pack_panel<TR>(a, task / panels, task % panels * kUnits, s.R + task * panel_floats);
  });
  const int64_t sweeps = (a.batch + kSweepRows - 1) / kSweepRows;
  int64_t blocks = 1;
  while (blocks < sweeps && !is_balanced(a.heads * blocks, threads)) ++blocks;
  const int64_t block = (sweeps + blocks - 1) / blocks * kSweepRows;
  blocks = (a.batch + block - 1) / block;
  if (a.heads * blocks >= threads) {
    parallel_for(a.heads * blocks, a.sequence * panels * panel_bytes, [&](int64_t task) HWY_ATTR {
      const int64_t h = task / blocks, row = task % blocks * block, end = std::min(row + block, a.batch);
      const int64_t positions = longest(a, row, end);
      begin(a, s, h, row, end);
      for (int64_t t = 0; t < positions; ++t) advance<T>(a, s, t, h, row, end, 0, s.units);
      finish<T>(a, s, positions, h, row, end);
    });
    return;
  }
  const int64_t tiles = panels * sweeps, positions = longest(a, 0, a.batch);
  for (int64_t h = 0; h < a.heads; ++h) begin(a, s, h, 0, a.batch);
  for (int64_t t = 0; t < positions; ++t) {
    parallel_for(a.heads * tiles, panel_bytes, [&](int64_t task) HWY_ATTR {
      const int64_t h = task / tiles, first = task % tiles / sweeps * kUnits, row = task % sweeps * kSweepRows;
      advance<T>(a, s, t, h, row, std::min(row + kSweepRows, a.batch), first, first + kUnits);
    });
  }
  for (int64_t h = 0; h < a.heads; ++h) finish<T>(a, s, positions, h, 0, a.batch);
}

}  // namespace

void slstm_sequence(const SlstmArgs& args, const ParallelFor& parallel_for) {
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

void slstm_sequence(const SlstmArgs& args, const ParallelFor& parallel_for) {
  static constexpr Variant<void(const SlstmArgs&, const ParallelFor&)> variants[] = XLSTM_VARIANTS(slstm_sequence);
  choose(variants)(args, parallel_for);
}

}  // namespace xlstm::cpu
#endif
