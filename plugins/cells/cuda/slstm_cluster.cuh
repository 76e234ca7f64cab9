// sLSTM cell over a sequence in one launch, by thread-block clusters and tensor cores (sm_90 and later).
//
// A cluster takes one head and a few batch rows from the first position to the last. A warp owns four units of the
// head. The 16 rows of R that lead to their gates stay in its registers, where mma.sync takes them from, and so do the
// units' states. Every position needs the head's whole y, so each warp sends what its four units give straight into the
// shared memory of all blocks of the cluster, in two buffers by turns, and each block counts the bytes that have come.
//
// That is all that keeps the blocks together. A warp that has all of y(p) knows that every warp of the cluster has read
// y(p - 1), since each reads it before it sends its part of y(p): so y(p + 1) may overwrite it. And no block ends
// before the bytes for it have come.
//
// The states may be updated in place: y_in is read before the blocks first meet and y_out written at the end.
#pragma once

#include "cells/cell_math.h"
#include "cells/cells.h"
#include "cells/cuda/cluster.cuh"
#include "cells/cuda/slstm_operands.cuh"
#include "cells/cuda/slstm_step.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

// What a cluster can take.
template <typename T, typename RecurrentT>
struct SlstmCluster {
  using Parts = SlstmParts<T, RecurrentT>;
  static constexpr int kWarpUnits = 4;                                   // by 4 gates: 16 rows of an operand
  static constexpr int kColumns = 8;                                     // of the other one
  static constexpr int kUnits = kSlstmThreads / kWarpSize * kWarpUnits;  // of a block
  static constexpr int kRows = kColumns / Parts::kRowColumns;            // batch rows of a cluster
  static constexpr int kSlabs = Parts::kWeights == 1 ? 16 : Parts::kWeights == 2 ? 8 : 6;  // that registers hold

  static __host__ __device__ constexpr int blocks(int64_t dim) {
    return static_cast<int>(ceil_div<int64_t>(dim, kUnits));
  }
  static __host__ __device__ constexpr int slabs(int64_t dim) {
    return static_cast<int>(ceil_div<int64_t>(dim, kSlstmSlab));
  }
  // Elements from one column of y to the next: an odd number of 64 bytes, so that 16-byte loads meet no bank twice.
  static __host__ __device__ constexpr int pitch(int64_t dim) { return (slabs(dim) | 1) * kSlstmSlab; }
  // Two counters of arrivals and two buffers of y.
  static constexpr size_t shared_bytes(int64_t dim) {
    return 2 * sizeof(uint64_t) + sizeof(__nv_bfloat16) * 2 * kColumns * static_cast<size_t>(pitch(dim));
  }
};

// Eight neighbours of a row of R from `in` on, zeros past `width`. kWhole: it is a multiple of 8, and R is aligned.
template <bool kWhole, typename RecurrentT>
__device__ __forceinline__ Eight<RecurrentT> load_eight(const RecurrentT* row, int in, int width) {
  Eight<RecurrentT> loaded{};
  if constexpr (kWhole) {
    if (in < width) loaded = load_eight(row + in);
  } else {
    RecurrentT elements[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) elements[e] = in + e < width ? row[in + e] : from_float<RecurrentT>(0.0f);
    memcpy(&loaded, elements, sizeof loaded);
  }
  return loaded;
}

// A warp's 16 rows of R, in registers. Row r of the operand, and row r + 8, belong to unit r / 2: gates i and z for an
// even r, f and o for an odd one. So a lane gets two gates of a unit, and the lane at distance 4 the other two. The
// columns of the other operand are those of y: batch rows times parts.
template <typename Shape>
class ClusterWeights {
 public:
  // `rows`: of this lane, zeros if its unit does not exist.
  template <bool kWhole, typename RecurrentT>
  __device__ __forceinline__ void load(const RecurrentT* const (&rows)[2], bool exists, int width, int lane) {
    constexpr int kInFlight = kWhole ? Shape::kSlabs / 2 : 1;
#pragma unroll
    for (int first = 0; first < Shape::kSlabs; first += kInFlight) {
      if (first * kSlstmSlab >= width) break;
      Eight<RecurrentT> loaded[kInFlight][2];
#pragma unroll
      for (int slab = 0; slab < kInFlight; ++slab) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          loaded[slab][half] =
              load_eight<kWhole>(rows[half], (first + slab) * kSlstmSlab + lane % 4 * 8, exists ? width : 0);
        }
      }
#pragma unroll
      for (int slab = 0; slab < kInFlight; ++slab) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t parts[kParts][4];
          split_eight(loaded[slab][half], parts);
#pragma unroll
          for (int part = 0; part < kParts; ++part) {
#pragma unroll
            for (int pair = 0; pair < 4; ++pair) {
              operands_[first + slab][part][pair / 2][pair % 2 * 2 + half] = parts[part][pair];
            }
          }
        }
      }
    }
  }

  // The products of both rows of this lane with the two columns that lane % 4 stands for, added up. `y`: this lane's
  // column, as far as the slab's eight inputs; nothing is read of a column that is not used.
  __device__ __forceinline__ void multiply(const __nv_bfloat16* y, bool used, int slabs, float (&sums)[2]) const {
    constexpr int kAhead = 4, kChains = 4;
    float chains[kChains][1][4] = {};
    Vector<uint32_t, 4> loaded[kAhead] = {};
    const auto load = [&](int slab) {
      if (used && slab < slabs) {
        loaded[slab % kAhead] = load_vector<4>(reinterpret_cast<const uint32_t*>(y + slab * kSlstmSlab));
      }
    };
#pragma unroll
    for (int slab = 0; slab < kAhead; ++slab) load(slab);
#pragma unroll
    for (int slab = 0; slab < Shape::kSlabs; ++slab) {
      if (slab >= slabs) break;
      const Vector<uint32_t, 4> now = loaded[slab % kAhead];
      load(slab + kAhead);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int product = 0; product < 2; ++product) {
          const uint32_t column[1][2] = {{now.values[2 * product], now.values[2 * product + 1]}};
          multiply_add<__nv_bfloat16>(chains[slab % 2 * 2 + product], operands_[slab][part][product], column);
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sums[half] = 0.0f;
#pragma unroll
      for (int chain = 0; chain < kChains; ++chain) {
        sums[half] += chains[chain][0][2 * half] + chains[chain][0][2 * half + 1];
      }
    }
  }

 private:
  static constexpr int kParts = Shape::Parts::kWeights;
  uint32_t operands_[Shape::kSlabs][kParts][2][4] = {};
};

// Four 16-bit values, one from each unit of the warp, lowest unit first.
__device__ __forceinline__ uint64_t gather_units(uint32_t bits, int lane) {
  const uint32_t next = __shfl_xor_sync(kFullWarp, bits, 8);
  const uint32_t pair = lane & 8 ? next | bits << 16 : bits | next << 16;
  const uint32_t far = __shfl_xor_sync(kFullWarp, pair, 16);
  return lane & 16 ? far | uint64_t{pair} << 32 : pair | uint64_t{far} << 32;
}

// Grid: blocks of a cluster, heads, groups of batch rows.
template <typename T, typename RecurrentT>
__global__ void __launch_bounds__(kSlstmThreads, 1) slstm_cluster_kernel([[maybe_unused]] const SlstmArgs args) {
#if __CUDA_ARCH__ >= 900
  using Shape = SlstmCluster<T, RecurrentT>;
  using Parts = typename Shape::Parts;
  constexpr int kRowColumns = Parts::kRowColumns;
  XLSTM_DYNAMIC_SHARED(float, shared);
  const int DH = static_cast<int>(args.dim), slabs = Shape::slabs(DH), pitch = Shape::pitch(DH);
  uint64_t* const arrivals = reinterpret_cast<uint64_t*>(shared);           // of each buffer
  __nv_bfloat16* const y = reinterpret_cast<__nv_bfloat16*>(arrivals + 2);  // [2][Shape::kColumns][pitch]

  const int64_t head = blockIdx.y, first_row = int64_t{blockIdx.z} * Shape::kRows;
  const int rows = static_cast<int>(args.batch - first_row < Shape::kRows ? args.batch - first_row : Shape::kRows);
  const int lane = threadIdx.x % kWarpSize;
  const int first_unit = static_cast<int>(blockIdx.x) * Shape::kUnits + threadIdx.x / kWarpSize * Shape::kWarpUnits;

  // What this lane stands for: a unit, the gates of two of its rows of R, a batch row and one of the parts of its y.
  // Several lanes hold the same state; they compute the same.
  const int quad = lane % 4, unit = first_unit + lane / 8, first_gate = lane / 4 % 2;
  const int own_row = quad * 2 / kRowColumns, own_part = first_gate + quad * 2 % kRowColumns;
  const int64_t row = first_row + own_row;
  const bool exists = own_row < rows && unit < DH, owner = exists && own_part == 0;
  const int64_t element = (row * args.heads + head) * DH + unit;

  const auto* const R = static_cast<const RecurrentT*>(args.R) + ((head * kGates + first_gate) * DH + unit) * DH;
  const RecurrentT* const rows_of_R[2] = {R, R + int64_t{2} * DH * DH};
  ClusterWeights<Shape> weights;
  if (DH % 8 == 0 && reinterpret_cast<uintptr_t>(args.R) % 16 == 0) {
    weights.template load<true>(rows_of_R, unit < DH, DH, lane);
  } else {
    weights.template load<false>(rows_of_R, unit < DH, DH, lane);
  }
  const int64_t length = exists ? row_length(args.lengths, row, args.sequence) : 0;
  float bias[2] = {};
  SlstmState<float> state{};
  if (exists) {
    state = {args.y_in[element], args.c_in[element], args.n_in[element], args.m_in[element]};
    for (int half = 0; half < 2; ++half) bias[half] = args.b[((first_gate + 2 * half) * args.heads + head) * DH + unit];
  }
  int64_t stop = 0;  // past the longest row nothing moves any more
  for (int r = 0; r < rows; ++r) {
    const int64_t other = row_length(args.lengths, first_row + r, args.sequence);
    stop = other > stop ? other : stop;
  }

  for (int index = threadIdx.x; index < Shape::kRows * pitch; index += kSlstmThreads) {
    const int r = index / pitch, in = index % pitch;
    float left = r < rows && in < DH ? args.y_in[((first_row + r) * args.heads + head) * DH + in] : 0.0f;
    for (int part = 0; part < kRowColumns; ++part) {
      __nv_bfloat16* const to = y + (r * kRowColumns + part) * pitch + in;
      *to = __ushort_as_bfloat16(static_cast<uint16_t>(take_part(left)));
      to[Shape::kColumns * pitch] = from_float<__nv_bfloat16>(0.0f);
    }
  }
  const unsigned bytes =
      static_cast<unsigned>(rows * Parts::kInputs * ceil_div(DH, Shape::kWarpUnits)) * sizeof(uint64_t);
  if (threadIdx.x == 0) {
    for (int buffer = 0; buffer < 2; ++buffer) {
      mbarrier_init(arrivals + buffer, 1);
      mbarrier_arrive_expect(arrivals + buffer, bytes);
    }
  }
  cluster_sync();

  const int64_t stride = args.heads * DH, first_token = row * args.sequence;
  const T* x = static_cast<const T*>(args.x) + (first_token * kGates + first_gate) * stride + head * DH + unit;
  T* hidden = static_cast<T*>(args.hidden) + first_token * stride + head * DH + unit;
  T inputs[2] = {};
  const auto load_inputs = [&](int64_t position) {
    if (position < length) {
      inputs[0] = x[0];
      inputs[1] = x[2 * stride];
    }
    x += kGates * stride;
  };
  load_inputs(0);
  for (int64_t position = 0; first_unit < DH && position < stop; ++position) {
    const int buffer = static_cast<int>(position % 2);
    const T now[2] = {inputs[0], inputs[1]};
    load_inputs(position + 1);
    if (position > 0) {
      mbarrier_wait(arrivals + buffer, static_cast<unsigned>((position - 1) / 2 % 2));
      if (threadIdx.x == 0) mbarrier_arrive_expect(arrivals + buffer, bytes);
    }
    float raw[2];
    const int column = lane / 4;
    weights.multiply(y + (buffer * Shape::kColumns + column) * pitch + quad * 8, column < rows * kRowColumns, slabs,
                     raw);
    float other[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int offset = 1; offset < kRowColumns / 2; offset *= 2) {
        raw[half] += __shfl_xor_sync(kFullWarp, raw[half], offset);
      }
      raw[half] += to_float(now[half]) + bias[half];
      other[half] = __shfl_xor_sync(kFullWarp, raw[half], 4);
    }
    const bool active = position < length;
    if (active) {
      const bool swap = first_gate != 0;
      state = slstm_pointwise(swap ? other[0] : raw[0], swap ? raw[0] : other[0], swap ? other[1] : raw[1],
                              swap ? raw[1] : other[1], state, args.forget_clamp);
    }

    uint32_t bits = 0;
    float left = state.y;
#pragma unroll
    for (int part = 0; part < Parts::kInputs; ++part) {
      const uint32_t taken = take_part(left);
      if (part == own_part) bits = taken;
    }
    const uint64_t sent = gather_units(bits, lane);
    if (position + 1 < stop && own_row < rows && own_part < Parts::kInputs) {
      __nv_bfloat16* const to =
          y + ((1 - buffer) * Shape::kColumns + own_row * kRowColumns + own_part) * pitch + first_unit;
      for (int block = lane / 8; block < Shape::blocks(DH); block += Shape::kWarpUnits) {
        store_async(reinterpret_cast<uint64_t*>(to), sent, arrivals + 1 - buffer, static_cast<unsigned>(block));
      }
    }
    if (owner) *hidden = from_float<T>(active ? state.y : 0.0f);
    hidden += stride;
  }

  if (owner) {
    args.y_out[element] = state.y;
    args.c_out[element] = state.c;
    args.n_out[element] = state.n;
    args.m_out[element] = state.m;
    for (int64_t position = stop; position < args.sequence; ++position, hidden += stride) {
      *hidden = from_float<T>(0.0f);
    }
  }
#endif
}

}  // namespace xlstm::cuda
