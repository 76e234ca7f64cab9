// A linear layer on a CPU. One task is one panel of outputs for some rows.
//
// A panel is as wide as a tile of sums and holds its outputs' weights input by input: so each panel is one stream
// through memory, and every element of it meets the rows of x while it is in the nearest cache. What the next rows need
// is fetched ahead, since the processor's own prefetcher does not look beyond a page.
#include "cells/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cells/cpu/linear.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include <algorithm>
#include <cstring>
#include <memory>

#include "cells/cpu/huge_pages.h"
#include "cells/cpu/linear.h"
#include "cells/cpu/matrix-inl.h"
#include "cells/cpu/prefetch.h"
#include "cells/cpu/tasks.h"

HWY_BEFORE_NAMESPACE();
namespace xlstm::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kAhead = 6144;  // bytes
// Inputs whose weights stay in the nearest cache while they meet all tiles of a group of rows. Each such block is
// summed by itself, always, so that rounding grows with its length and their number, and not with their product.
constexpr int64_t kInputsTogether = 96;
constexpr int64_t kRowsTogether = 64;
constexpr int64_t kStep = 4;  // inputs between which it fetches ahead

// What a tile fetches while it computes: from `from` on, so many lines with every step.
struct Fetch {
  const uint8_t* from;
  int64_t lines;
};

// Rows of x as tiles read them: the elements of up to four rows side by side (a strand), and strands one after another,
// `stride` floats apart. So tiles read x in one stream, too, whatever its width.
struct Strands {
  const float* x;
  int64_t stride;
};

constexpr int64_t kStrand = 4;

// sums[r][..] += sum over j < depth of x[r][j] panel[j][..], for `rows` rows of `vectors` vectors.
template <int64_t rows, int64_t vectors, class T>
HWY_INLINE void add_tile(int64_t depth, const T* panel, Strands x, Fetch fetch, float* sums) {
  constexpr int64_t kTogether = std::min(rows, kStrand);
  const hn::ScalableTag<float> d;
  constexpr int64_t kWidth = vectors * kLanes;
  hn::Vec<decltype(d)> tile[rows][vectors];
  for (auto& row : tile) {
    for (auto& sum : row) sum = hn::Zero(d);
  }
  const auto add_input = [&](int64_t j) HWY_ATTR {
    hn::Vec<decltype(d)> weights[vectors];
    for (int64_t v = 0; v < vectors; ++v) weights[v] = load(d, panel + j * kWidth + v * kLanes);
    for (int64_t r = 0; r < rows; ++r) {
      const auto element = hn::Set(d, x.x[r / kTogether * x.stride + j * kTogether + r % kTogether]);
      for (int64_t v = 0; v < vectors; ++v) tile[r][v] = hn::MulAdd(element, weights[v], tile[r][v]);
    }
  };
  int64_t j = 0;
  for (; j + kStep <= depth; j += kStep) {
    for (int64_t line = 0; line < fetch.lines; ++line, fetch.from += kCacheLine) prefetch_once(fetch.from);
    for (int64_t next = 0; next < kStep; ++next) add_input(j + next);
  }
  for (; j < depth; ++j) add_input(j);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t v = 0; v < vectors; ++v) {
      float* const to = sums + r * kPanel + v * kLanes;
      hn::StoreU(hn::Add(hn::LoadU(d, to), tile[r][v]), d, to);
    }
  }
}

template <int64_t vectors, class T>
HWY_INLINE void add_rows(int64_t rows, int64_t depth, const T* panel, Strands x, Fetch fetch, float* sums) {
  switch (rows) {
    case 1:
      return add_tile<1, vectors>(depth, panel, x, fetch, sums);
    case 2:
      return add_tile<2, vectors>(depth, panel, x, fetch, sums);
    case 4:
      return add_tile<4, vectors>(depth, panel, x, fetch, sums);
    default:
      return add_tile<kTileRows, vectors>(depth, panel, x, fetch, sums);
  }
}

// Rows of the tile that begins where so many are left: all tiles there are, the largest first.
HWY_INLINE int64_t tile_rows(int64_t left) {
  if (left >= kTileRows) return kTileRows;
  return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

HWY_INLINE int64_t count_tiles(int64_t rows) {
  int64_t count = 0;
  for (int64_t r = 0; r < rows; r += tile_rows(rows - r)) ++count;
  return count;
}

// The rows of one tile as strands.
template <class T>
void interleave(int64_t rows, int64_t inputs, const T* x, int64_t x_stride, float* to) {
  const hn::ScalableTag<float> d;
  const int64_t together = std::min(rows, kStrand), whole = inputs / kLanes * kLanes;
  for (int64_t r = 0; r < rows; r += together, x += together * x_stride, to += together * inputs) {
    const auto row = [&](int64_t index, int64_t j) HWY_ATTR { return load(d, x + index * x_stride + j); };
    for (int64_t j = 0; j < whole; j += kLanes) {
      if (together == 1) {
        hn::StoreU(row(0, j), d, to + j);
      } else if (together == 2) {
        hn::StoreInterleaved2(row(0, j), row(1, j), d, to + 2 * j);
      } else {
        hn::StoreInterleaved4(row(0, j), row(1, j), row(2, j), row(3, j), d, to + 4 * j);
      }
    }
    for (int64_t j = whole; j < inputs; ++j) {
      for (int64_t index = 0; index < together; ++index) to[j * together + index] = load_one(x + index * x_stride + j);
    }
  }
}

// Where the outputs of some rows go, from output `first` of row `row` on.
struct Outputs {
  void* y;
  DataType type;
  int64_t stride, row, first;
};

// One panel by at most kRowsTogether rows. x: their strands.
template <int64_t vectors, class T>
void multiply_panel(int64_t rows, int64_t inputs, int64_t outputs, const T* panel, const float* bias, const float* x,
                    const Outputs& to) {
  constexpr int64_t kWidth = vectors * kLanes;
  constexpr int64_t kStepLines = (kStep * kWidth * static_cast<int64_t>(sizeof(T)) + kCacheLine - 1) / kCacheLine;
  HWY_ALIGN_MAX float sums[kRowsTogether * kPanel];
  for (int64_t r = 0; r < rows; ++r) std::memcpy(sums + r * kPanel, bias, kWidth * sizeof(float));
  const int64_t tiles = count_tiles(rows);
  // One tile fetches what it will need itself; of several each fetches its share of the next block.
  const int64_t lines = (kStepLines + tiles - 1) / tiles;
  const int64_t ahead = tiles == 1 ? kAhead : kInputsTogether * kWidth * static_cast<int64_t>(sizeof(T));
  for (int64_t j = 0; j < inputs; j += kInputsTogether) {
    const int64_t depth = std::min(kInputsTogether, inputs - j);
    const T* const weights = panel + j * kWidth;
    Fetch fetch{reinterpret_cast<const uint8_t*>(weights) + ahead, lines};
    for (int64_t r = 0; r < rows; fetch.from += depth / kStep * lines * kCacheLine) {
      const int64_t tile = tile_rows(rows - r);
      const Strands strands{x + r * inputs + j * std::min(tile, kStrand), kStrand * inputs};
      add_rows<vectors>(tile, depth, weights, strands, fetch, sums + r * kPanel);
      r += tile;
    }
  }
  dispatch_type(to.type, [&](auto zero) HWY_ATTR {
    auto* const y = static_cast<decltype(zero)*>(to.y) + to.row * to.stride + to.first;
    for (int64_t r = 0; r < rows; ++r) {
      for_lanes(outputs, [&](auto d, int64_t n)
                             HWY_ATTR { store(d, hn::LoadU(d, sums + r * kPanel + n), y + r * to.stride + n); });
    }
  });
}

// The rows of all groups as strands, group after group.
void interleave_all(const LinearArgs& layer, const LinearRows& rows, float* to, const ParallelFor& parallel_for) {
  const int64_t inputs = layer.inputs, tiles = rows.count / kTileRows + (rows.count % kTileRows != 0);
  dispatch_type(rows.x_type, [&](auto zero) HWY_ATTR {
    parallel_for(layer.groups * tiles, 8 * kTileRows * inputs, [&](int64_t task) HWY_ATTR {
      const int64_t group = task / tiles, first = task % tiles * kTileRows;
      const auto* const x = static_cast<const decltype(zero)*>(rows.x[group]);
      float* const strands = to + group * rows.count * inputs;
      for (int64_t r = first, end = std::min(rows.count, r + kTileRows); r < end;) {
        const int64_t here = tile_rows(end - r);
        interleave(here, inputs, x + r * rows.x_stride, rows.x_stride, strands + r * inputs);
        r += here;
      }
    });
  });
}

void multiply_by_panels(const LinearArgs& layer, const uint8_t* panels, const float* bias, const LinearRows& rows,
                        const ParallelFor& parallel_for) {
  const int64_t inputs = layer.inputs, outputs = layer.outputs;
  constexpr int64_t kUsual = 8 << 10;  // floats: rows of the usual width
  Scratch<kUsual> scratch(layer.groups * rows.count * inputs);
  interleave_all(layer, rows, scratch.data(), parallel_for);
  dispatch_type(layer.type, [&](auto zero) HWY_ATTR {
    using T = decltype(zero);
    const int64_t panel_count = (outputs + kPanel - 1) / kPanel, group_outputs = panel_count * kPanel;
    const int64_t rounds = (rows.count + kRowsTogether - 1) / kRowsTogether;
    const int64_t panel_bytes = inputs * kPanel * static_cast<int64_t>(sizeof(T));
    constexpr int64_t kRowsPerRead = 16;  // so many take as long as reading the panel from memory
    const int64_t cost = panel_bytes * (1 + std::min(rows.count, kRowsTogether) / kRowsPerRead);
    parallel_for(layer.groups * panel_count * rounds, cost, [&](int64_t task) HWY_ATTR {
      const int64_t group = task / rounds / panel_count, first = task / rounds % panel_count * kPanel;
      const int64_t row = task % rounds * kRowsTogether, here = std::min(kRowsTogether, rows.count - row);
      const int64_t width = std::min(kPanel, outputs - first), vectors = (width + kLanes - 1) / kLanes;
      const T* const panel = reinterpret_cast<const T*>(panels) + (group * group_outputs + first) * inputs;
      const float* const panel_bias = bias + group * group_outputs + first;
      const float* const strands = scratch.data() + (group * rows.count + row) * inputs;
      const Outputs to{rows.y[group], rows.y_type, rows.y_stride, row, first};
      if (vectors == 1) {
        multiply_panel<1>(here, inputs, width, panel, panel_bias, strands, to);
      } else if (vectors == 2) {
        multiply_panel<2>(here, inputs, width, panel, panel_bias, strands, to);
      } else {
        multiply_panel<kTileVectors>(here, inputs, width, panel, panel_bias, strands, to);
      }
    });
  });
}

// One group. `Bits`: an unsigned integer of the element's size.
template <class Bits>
void pack_elements(int64_t inputs, int64_t outputs, const Bits* weight, Bits* to) {
  constexpr int64_t kTogether = kCacheLine / sizeof(Bits);  // of a row: one line
  for (int64_t first = 0; first < outputs; first += kPanel) {
    const int64_t here = std::min(kPanel, outputs - first), width = round_up(here, kLanes);
    for (int64_t j = 0; j < inputs; j += kTogether) {
      const int64_t end = std::min(inputs, j + kTogether);
      for (int64_t n = 0; n < here; ++n) {
        const Bits* const row = weight + (first + n) * inputs;
        for (int64_t k = j; k < end; ++k) to[k * width + n] = row[k];
      }
    }
    to += inputs * width;
  }
}

void pack(const LinearArgs& layer, uint8_t* panels) {
  const auto pack_as = [&](auto bits) {
    using Bits = decltype(bits);
    for (int64_t group = 0; group < layer.groups; ++group) {
      pack_elements(layer.inputs, layer.outputs,
                    static_cast<const Bits*>(layer.weight) + group * layer.outputs * layer.inputs,
                    reinterpret_cast<Bits*>(panels) + group * round_up(layer.outputs, kPanel) * layer.inputs);
    }
  };
  layer.type == DataType::kFloat32 ? pack_as(uint32_t{}) : pack_as(uint16_t{});
}

}  // namespace

LinearKernel linear_kernel() { return {kPanel, pack, multiply_by_panels}; }

}  // namespace xlstm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace xlstm::cpu {

PackedLinear::PackedLinear(const LinearArgs& layer) : layer_(layer) {
  static constexpr Variant<LinearKernel()> variants[] = XLSTM_VARIANTS(linear_kernel);
  kernel_ = choose(variants)();
  const int64_t outputs = (layer.outputs + kernel_.panel - 1) / kernel_.panel * kernel_.panel;
  panels_ = allocate_zeros(static_cast<size_t>(layer.groups * outputs * layer.inputs * element_size(layer.type)));
  kernel_.pack(layer, panels_.get());
  bias_ = std::make_unique<float[]>(static_cast<size_t>(layer.groups * outputs));
  if (layer.bias) {
    HWY_NAMESPACE::dispatch_type(layer.type, [&](auto zero) {
      const auto* const bias = static_cast<const decltype(zero)*>(layer.bias);
      for (int64_t n = 0; n < layer.groups * layer.outputs; ++n) {
        const int64_t at = n / layer.outputs * outputs + n % layer.outputs;
        bias_[static_cast<size_t>(at)] = HWY_NAMESPACE::load_one(bias + n);
      }
    });
  }
  layer_.weight = layer_.bias = nullptr;
}

void PackedLinear::multiply(const LinearRows& rows, const ParallelFor& parallel_for) const {
  kernel_.multiply(layer_, panels_.get(), bias_.get(), rows, parallel_for);
}

void PackedLinear::multiply(int64_t rows, const void* x, void* y, const ParallelFor& parallel_for) const {
  multiply({rows, layer_.type, layer_.type, &x, &y, layer_.inputs, layer_.outputs}, parallel_for);
}

}  // namespace xlstm::cpu
#endif
