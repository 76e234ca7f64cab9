// What stands around the cells as plain functions over pointers, as cells.h has the cells. N = B S positions stand one
// under the other, row after row. The definitions are xlstm_export/operators/layer_definitions.py, those in PyTorch
// eager_layers.py beside it.
#pragma once

#include <cstdint>

#include "cells/cells.h"

namespace xlstm {

// y = SiLU(depthwise causal convolution of x), with what stands before the first position in a window.
// window_out may be the very same buffer as window_in; otherwise they must not overlap.
struct CausalConvArgs {
  int64_t batch, sequence, dim, kernel;
  int64_t x_width;         // X
  const float* x;          // (N, X), whose first D columns are convolved
  const float* window_in;  // (B, K - 1, D), the newest last
  const float* weight;     // (K, D)
  const float* bias;       // (D)
  const int32_t* lengths;  // (B), or null
  float* y;                // (N, D); zero beyond a row's length
  float* window_out;
};

// Queries and keys from x_conv, values from x, through blocks of `width` on a diagonal; the gates' pre-activations from
// all three. T is `type`.
struct MlstmProjectionsArgs {
  int64_t batch, sequence, heads, inner, width;
  int64_t x_width;  // X
  DataType type;
  const float* x_conv;    // (N, I)
  const float* x;         // (N, X), whose first I columns count
  const float* q_weight;  // (I / W, W, W) [block, out, in] each
  const float* k_weight;
  const float* v_weight;
  const void* i_weight;    // (H, 3 I) T, on [q, k, v]
  const void* i_bias;      // (H) T
  const void* f_weight;    // (H, 3 I) T
  const void* f_bias;      // (H) T
  const int32_t* lengths;  // (B), or null
  void* q;                 // (B, S, H, I / H) T each; zero beyond a row's length, as i and f
  void* k;
  void* v;
  void* i;  // (B, S, H) T each
  void* f;
};

// The inputs of an sLSTM cell, each gate by a matrix for each head: of i and f from x_conv, of z and o from x. T is
// `type`.
struct SlstmProjectionsArgs {
  int64_t positions, heads, dim;
  DataType type;
  const float* x_conv;   // (N, H, D)
  const float* x;        // (N, H, D)
  const void* i_weight;  // (H, D, D) T [head, out, in] each
  const void* f_weight;
  const void* z_weight;
  const void* o_weight;
  void* gates;  // (N, 4, H, D) T
};

// Queries, keys, values and output gate, and the gates' pre-activations, each by itself. T is `type`.
struct MlstmHeadsArgs {
  int64_t positions, heads, dim_qk, dim_v;
  DataType type;
  const void* x;      // (N, 2 H K + 2 H V) T: [q, k, v, o]
  const void* gates;  // (N, 2 H) T: [i, f]
  void* q;            // (N, H, K) T
  void* k;
  void* v;   // (N, H, V) T
  void* i;   // (N, H) T
  void* f;   // (N, H) T
  float* o;  // (N, H V)
};

// y = norm(h) weight, or, with `gate`, y = sigmoid(gate) norm(h) weight, or, with `skip` and `x` too,
// y = SiLU(gate) (norm(h) weight + skip x). The norm is over each head. T is `type`.
struct HeadNormArgs {
  int64_t positions, heads, dim;
  int64_t gate_width;  // Z
  DataType type;
  const void* h;        // (N, H, D) T
  const float* weight;  // (H, D)
  const float* gate;    // (N, Z), whose last H D columns are pre-activations; or null
  const float* skip;    // (H, D), or null
  const float* x;       // (N, H, D), or null
  float* y;             // (N, H, D)
  float eps;
};

// x_next = x + y, and normal its norm times weight: the layer norm, or the root mean square norm. T is `type`. x_next
// may be the very same buffer as x.
struct AddNormArgs {
  int64_t positions, dim;
  DataType type;
  bool centred;         // the layer norm
  const float* x;       // (N, D)
  const void* y;        // (N, D) T
  const float* weight;  // (D)
  float* normal;        // (N, D)
  float* x_next;        // (N, D)
  float eps;
};

// y = GELU(gate) up or SiLU(gate) up. T is `type`.
struct GatedLinearUnitArgs {
  int64_t positions, dim;
  DataType type;
  bool gelu;
  const void* x;  // (N, 2 F) T: [gate, up]
  void* y;        // (N, F) T
};

// y = cap tanh(x / cap). T is `type`.
struct SoftCapArgs {
  int64_t count;
  DataType type;
  const void* x;  // T
  float* y;
  float cap;
};

struct ValidTokensArgs {
  int64_t batch, sequence;
  const int64_t* tokens;   // (B, S)
  const int32_t* lengths;  // (B), or null
  int64_t* y;              // (B, S); zero beyond a row's length
};

struct LastPositionsArgs {
  int64_t batch, sequence, dim;
  const float* x;          // (N, D)
  const int32_t* lengths;  // (B)
  float* y;                // (B, D): each row's last position, its first where it has none
};

}  // namespace xlstm
