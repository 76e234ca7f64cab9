// sLSTM cell over a sequence in one launch: R stays on chip, y crosses from block to block at every position.
//
// A block owns `units` output units of one head: the four rows of R that lead to each, in shared memory from the first
// position to the last, and their c, n and m. Every position needs the head's whole y, so the blocks of a head write
// theirs to global memory, in two buffers by turns, and meet at a counter of arrivals: none goes on before all have
// written, and none is so far ahead that it overwrites what another still reads. All blocks must be on the GPU at the
// same time, which a cooperative launch sees to. Within a position the work is the step kernel's, with the batch rows
// kRows at a time.
//
// The states may be updated in place: y_out is written at the last position, which is never the first, and c, n and m
// are read and written by the same thread.
#pragma once

#include "cells/cells.h"
#include "cells/cuda/slstm_step.cuh"
#include "cells/cuda/types.cuh"

namespace xlstm::cuda {

// What a block keeps in shared memory: R, kRows rows of y, and the sums that cross to the pointwise part. Rows of R and
// y are padded with zeros to whole vectors.
template <typename RecurrentT, int kRows>
struct SliceLayout {
  static constexpr int kVector = 16 / sizeof(RecurrentT);

  static __host__ __device__ constexpr int64_t padded(int64_t dim) { return ceil_div<int64_t>(dim, kVector) * kVector; }
  static constexpr int64_t bytes(int64_t dim, int64_t units) {
    const int64_t floats = kRows * padded(dim) + kGates * kRows * units;
    return kGates * units * padded(dim) * int64_t{sizeof(RecurrentT)} + floats * int64_t{sizeof(float)};
  }
};

// Until `arrivals` has reached `target`, and what the others wrote before they arrived can be read.
__device__ __forceinline__ void wait_for_arrivals(const unsigned* arrivals, unsigned target) {
  if (threadIdx.x == 0) {
    while (*static_cast<const volatile unsigned*>(arrivals) < target) {
      __nanosleep(32);
    }
    __threadfence();
  }
  __syncthreads();
}

// Grid: heads * slices, launched cooperatively; S >= 2. `exchange`: two buffers of y. `arrivals`: a counter for each
// head, zero. `units` * kRows threads at most do the pointwise part.
template <typename T, typename RecurrentT, int kRows>
__global__ void __launch_bounds__(kSlstmThreads)
    slstm_sequence_kernel(const SlstmArgs args, const int units, float* exchange, unsigned* arrivals) {
  using Layout = SliceLayout<RecurrentT, kRows>;
  constexpr int kSums = kGates * kRows;
  XLSTM_DYNAMIC_SHARED(float, shared);
  const int DH = static_cast<int>(args.dim), rows = static_cast<int>(args.batch);
  const int padded = static_cast<int>(Layout::padded(DH));
  RecurrentT* const R = reinterpret_cast<RecurrentT*>(shared);             // [gate][unit][padded]
  float* const y = reinterpret_cast<float*>(R + kGates * units * padded);  // [kRows][padded]
  float* const sums = y + kRows * padded;                                  // [kSums][units]

  const int slices = ceil_div(DH, units);
  const int64_t head = blockIdx.x / slices;
  const int first_unit = static_cast<int>(blockIdx.x % slices) * units;
  const int own_units = DH - first_unit < units ? DH - first_unit : units;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;

  for (int row = warp; row < kGates * units; row += kSlstmUnits) {
    const int gate = row / units, unit = row % units;
    const RecurrentT* const from =
        static_cast<const RecurrentT*>(args.R) + ((head * kGates + gate) * DH + first_unit + unit) * int64_t{DH};
    for (int in = lane; in < padded; in += kWarpSize) {
      R[row * padded + in] = unit < own_units && in < DH ? from[in] : from_float<RecurrentT>(0.0f);
    }
  }
  // Past the longest row nothing moves any more. Two positions at least: the first reads what the last overwrites.
  int64_t stop = 2;
  for (int row = 0; row < rows; ++row) {
    const int64_t length = row_length(args.lengths, row, args.sequence);
    stop = length > stop ? length : stop;
  }

  // The element of the pointwise part that this thread owns in every group of rows, if any.
  const int own_row = threadIdx.x / units, own_unit = threadIdx.x % units;
  const int unit = first_unit + own_unit;
  T* const hidden = static_cast<T*>(args.hidden);
  const float* y_prev = args.y_in;
  for (int64_t position = 0; position < stop; ++position) {
    const int64_t elements = int64_t{rows} * args.heads * DH;
    float* const y_next = position + 1 == stop ? args.y_out : exchange + position % 2 * elements;
    for (int first_row = 0; first_row < rows; first_row += kRows) {
      const int64_t row = first_row + own_row;
      const bool owner = own_row < kRows && row < rows && own_unit < own_units;
      const int64_t element = (row * args.heads + head) * DH + unit;
      bool active = false;
      float input[kGates] = {};  // x + b
      SlstmState<float> state{};
      if (owner) {
        active = position < row_length(args.lengths, row, args.sequence);
        if (active) load_inputs<T>(args, row, position, head, unit, input);
        state.c = (position ? args.c_out : args.c_in)[element];
        state.n = (position ? args.n_out : args.n_in)[element];
        state.m = (position ? args.m_out : args.m_in)[element];
      }
      if (position > 0 && first_row == 0) {
        wait_for_arrivals(arrivals + head, static_cast<unsigned>(position) * static_cast<unsigned>(slices));
      }

      // Past the first-level cache, which does not see what other blocks write.
      for (int r = 0; r < kRows && first_row + r < rows; ++r) {
        const float* const from = y_prev + ((first_row + r) * args.heads + head) * DH;
        for (int in = threadIdx.x; in < padded; in += kSlstmThreads)
          y[r * padded + in] = in < DH ? __ldcg(from + in) : 0.0f;
      }
      __syncthreads();
      for (int out = warp; out < own_units; out += kSlstmUnits) {
        float acc[kSums] = {};
        accumulate_gates<Layout::kVector, kRows>(R + out * padded, units * padded, y, padded, padded, rows - first_row,
                                                 lane, acc);
        const float sum = reduce_scatter(acc, lane);
        if (lane < kSums) sums[lane * units + out] = sum;
      }
      __syncthreads();
      if (!owner) continue;

      T result = from_float<T>(0.0f);
      if (active) {
        const auto raw = [&](int gate) { return input[gate] + sums[(gate * kRows + own_row) * units + own_unit]; };
        state = slstm_pointwise(raw(0), raw(1), raw(2), raw(3), state, args.forget_clamp);
        result = from_float<T>(state.y);
      } else {
        state.y = __ldcg(y_prev + element);
      }
      y_next[element] = state.y;
      args.c_out[element] = state.c;
      args.n_out[element] = state.n;
      args.m_out[element] = state.m;
      hidden[((row * args.sequence + position) * args.heads + head) * DH + unit] = result;
    }
    if (position + 1 < stop) {
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) atomicAdd(arrivals + head, 1u);
    }
    y_prev = y_next;
  }

  for (int64_t index = threadIdx.x; index < (args.sequence - stop) * rows * own_units; index += kSlstmThreads) {
    const int64_t row = index / own_units % rows, position = stop + index / own_units / rows;
    const int64_t token = (row * args.sequence + position) * args.heads + head;
    hidden[token * DH + first_unit + index % own_units] = from_float<T>(0.0f);
  }
}

}  // namespace xlstm::cuda
