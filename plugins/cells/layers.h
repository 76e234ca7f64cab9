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
  const float* x;          // (N, D)
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
  DataType type;
  const float* x_conv;    // (N, I)
  const float* x;         // (N, I)
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

// y = sigmoid(gate) norm(h) weight, or, with `skip` and `x`, y = SiLU(gate) (norm(h) weight + skip x). The norm is over
// each head. T is `type`.
struct GatedHeadNormArgs {
  int64_t positions, heads, dim;
  DataType type;
  const void* h;        // (N, H, D) T
  const float* weight;  // (H, D)
  const float* gate;    // (N, H, D), pre-activations
  const float* skip;    // (H, D), or null
  const float* x;       // (N, H, D), or null
  float* y;             // (N, H, D)
  float eps;
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
