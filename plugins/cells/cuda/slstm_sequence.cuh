// sLSTM cell over a sequence in one launch: R stays on chip, y crosses from block to block at every position.
//
// A block owns `units` output units of one head: the four rows of R that lead to each, in shared memory from the first
// position to the last, and their c, n and m. Every position needs the head's whole y, so the blocks of a head write
// theirs to global memory, in two buffers by turns. Each value goes with the position that it is for, in one store of
// eight bytes: a block reads a value again and again until it is the one of the position. No fence, no counter.
//
// That also keeps blocks from overwriting what others still read. Who has all of y(p) knows that every block has read
// all of y(p - 1), since each does so before it writes its part of y(p): so y(p + 1) may overwrite it.
//
// All blocks must be on the GPU at the same time, which a cooperative launch sees to. Within a position the work is the
// step kernel's, but that the states stay in registers.
//
// The states may be updated in place: y_out is written after the last position, which is never the first, and c, n and
// m are read and written by the same thread.
#pragma once

#include <cstring>

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

// A value of y and the position whose input it is.
struct alignas(8) Message {
  float y;
  uint32_t position;
};

// Moved in one piece, and past the first-level cache, which does not see what other blocks write.
__device__ __forceinline__ void send(Message* to, float y, int64_t position) {
  const Message message{y, static_cast<uint32_t>(position)};
  uint64_t bits;
  memcpy(&bits, &message, sizeof bits);
  *reinterpret_cast<volatile uint64_t*>(to) = bits;
}

__device__ __forceinline__ Message receive(const Message* from) {
  const uint64_t bits = *reinterpret_cast<const volatile uint64_t*>(from);
  Message message;
  memcpy(&message, &bits, sizeof bits);
  return message;
}

// Values that are there already, or have been sent for this position: true once they all are. Null: none.
template <int N>
__device__ __forceinline__ bool receive_all(const Message* const (&from)[N], int64_t position, float (&values)[N]) {
  bool complete = true;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (from[i] == nullptr) continue;
    const Message message = receive(from[i]);
    values[i] = message.y;
    complete &= message.position == static_cast<uint32_t>(position);
  }
  return complete;
}

// The rows of R that lead to `own_units` units of a head, [gate][unit][padded], zeros up to `units` and `padded`.
template <int kVector, typename RecurrentT>
__device__ __forceinline__ void load_slice(const SlstmArgs& args, int64_t head, int first_unit, int own_units,
                                           int units, RecurrentT* slice) {
  const int DH = static_cast<int>(args.dim), padded = ceil_div(DH, kVector) * kVector;
  const bool whole_vectors = DH == padded && reinterpret_cast<uintptr_t>(args.R) % 16 == 0;
  for (int row = threadIdx.x / kWarpSize; row < kGates * units; row += kSlstmUnits) {
    const int gate = row / units, unit = row % units;
    const RecurrentT* const from =
        static_cast<const RecurrentT*>(args.R) + ((head * kGates + gate) * DH + first_unit + unit) * DH;
#pragma unroll 2
    for (int in = threadIdx.x % kWarpSize * kVector; in < padded; in += kWarpSize * kVector) {
      Vector<RecurrentT, kVector> part;
      if (whole_vectors && unit < own_units) {
        part = load_vector<kVector>(from + in);
      } else {
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          part.values[e] = unit < own_units && in + e < DH ? from[in + e] : from_float<RecurrentT>(0.0f);
        }
      }
      store_vector(slice + row * padded + in, part);
    }
  }
}

// Grid: heads * slices, launched cooperatively; S >= 2, B <= kRows. `exchange`: two buffers of (B, H, DH), zero.
// `units` * kRows threads at most do the pointwise part.
template <typename T, typename RecurrentT, int kRows>
__global__ void __launch_bounds__(kSlstmThreads, 1)
    slstm_sequence_kernel(const SlstmArgs args, const int units, Message* exchange) {
  using Layout = SliceLayout<RecurrentT, kRows>;
  constexpr int kSums = kGates * kRows;
  constexpr int kRead = 2 * kRows;  // values of y that a thread reads at a time
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

  load_slice<Layout::kVector>(args, head, first_unit, own_units, units, R);
  // Past the longest row nothing moves any more. Two positions at least: the first reads what the last overwrites.
  int64_t stop = 2;
  for (int row = 0; row < rows; ++row) {
    const int64_t length = row_length(args.lengths, row, args.sequence);
    stop = length > stop ? length : stop;
  }

  // The element of the pointwise part that this thread owns, if any.
  const int own_row = threadIdx.x / units, own_unit = threadIdx.x % units;
  const int unit = first_unit + own_unit;
  const bool owner = own_row < rows && own_unit < own_units;
  const int64_t element = (own_row * args.heads + head) * DH + unit;
  const int64_t length = owner ? row_length(args.lengths, own_row, args.sequence) : 0;
  T* const hidden = static_cast<T*>(args.hidden);
  float bias[kGates] = {};
  SlstmState<float> state{};
  if (owner) {
    load_bias(args, head, unit, bias);
    state = {args.y_in[element], args.c_in[element], args.n_in[element], args.m_in[element]};
  }
  for (int64_t position = 0; position < stop; ++position) {
    const bool active = position < length;
    T x[kGates] = {};
    if (active) load_inputs(args, own_row, position, head, unit, x);

    const int64_t elements = int64_t{rows} * args.heads * DH;
    for (int first = threadIdx.x; first < kRows * padded; first += kSlstmThreads * kRead) {
      float values[kRead] = {};
      const Message* from[kRead];
#pragma unroll
      for (int i = 0; i < kRead; ++i) {
        const int index = first + i * kSlstmThreads, row = index / padded, in = index % padded;
        const int64_t offset = (row * args.heads + head) * DH + in;
        const bool exists = row < rows && in < DH;
        if (exists && position == 0) values[i] = args.y_in[offset];
        from[i] = exists && position > 0 ? exchange + position % 2 * elements + offset : nullptr;
      }
      while (!receive_all(from, position, values)) {
        __nanosleep(32);
      }
#pragma unroll
      for (int i = 0; i < kRead; ++i) {
        const int index = first + i * kSlstmThreads;
        if (index < kRows * padded) y[index] = values[i];
      }
    }
    __syncthreads();
    for (int out = warp; out < own_units; out += kSlstmUnits) {
      float acc[kSums] = {};
      accumulate_gates<Layout::kVector, kRows>(R + out * padded, units * padded, y, padded, padded, rows, lane, acc);
      const float sum = reduce_scatter(acc, lane);
      if (lane < kSums) sums[lane * units + out] = sum;
    }
    __syncthreads();
    if (!owner) continue;

    if (active) {
      const auto raw = [&](int gate) {
        return to_float(x[gate]) + bias[gate] + sums[(gate * kRows + own_row) * units + own_unit];
      };
      state = slstm_pointwise(raw(0), raw(1), raw(2), raw(3), state, args.forget_clamp);
    }
    if (position + 1 < stop) send(exchange + (position + 1) % 2 * elements + element, state.y, position + 1);
    hidden[((own_row * args.sequence + position) * args.heads + head) * DH + unit] =
        from_float<T>(active ? state.y : 0.0f);
  }

  if (owner) {
    args.y_out[element] = state.y;
    args.c_out[element] = state.c;
    args.n_out[element] = state.n;
    args.m_out[element] = state.m;
  }
  for (int64_t index = threadIdx.x; index < (args.sequence - stop) * rows * own_units; index += kSlstmThreads) {
    const int64_t row = index / own_units % rows, position = stop + index / own_units / rows;
    const int64_t token = (row * args.sequence + position) * args.heads + head;
    hidden[token * DH + first_unit + index % own_units] = from_float<T>(0.0f);
  }
}

}  // namespace xlstm::cuda
