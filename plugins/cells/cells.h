// The two xLSTM cells as plain functions over pointers: what every kernel implements and every binding calls.
// Knows nothing of TensorRT, ONNX Runtime or CUDA types. All tensors are contiguous, batch first, row-major.
//
// The meaning of every argument is the operator contract of domain ai.xlstm, version 1 (contract.h). The definition in
// standard ONNX operators is xlstm_export/operators/definitions.py, that in PyTorch is eager.py beside it.
#pragma once

#include <cstdint>

namespace xlstm {

enum class DataType : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

constexpr int64_t element_size(DataType type) { return type == DataType::kFloat32 ? 4 : 2; }

// mLSTM (Beck et al. 2024, equations 19 to 27, stabilised). T is `type`; states are float, but for C, which is stored
// as `memory_type` (TC). Kernels widen it where they read it, compute in float, h included, and round it where they
// write it. A state output may be the very same buffer as its input; otherwise they must not overlap.
struct MlstmArgs {
  int64_t batch, sequence, heads, dim_qk, dim_v;
  DataType type;
  DataType memory_type;    // of C, whatever `type` is
  const void* q;           // (B, S, H, DK) T
  const void* k;           // (B, S, H, DK) T
  const void* v;           // (B, S, H, DV) T
  const void* i;           // (B, S, H) T, input gate pre-activation
  const void* f;           // (B, S, H) T, forget gate pre-activation
  const void* C_in;        // (B, H, DK, DV) TC
  const float* n_in;       // (B, H, DK)
  const float* m_in;       // (B, H)
  const int32_t* lengths;  // (B), or null: every row has length S
  void* h;                 // (B, S, H, DV) T; zero beyond a row's length
  void* C_out;
  float* n_out;
  float* m_out;
  float q_scale, k_scale;
  float gate_soft_cap;  // 0: none
  float eps;
};

// sLSTM (Beck et al. 2024, equations 8 to 18, stabilised). Gate order i, f, z, o.
struct SlstmArgs {
  int64_t batch, sequence, heads, dim;  // dim = DH, the width of one head
  DataType type;
  DataType recurrent_type;  // of R: kFloat32, or the same as `type`
  const void* x;            // (B, S, 4, H, DH) T, input part of the pre-activations
  const void* R;            // (H, 4, DH, DH) [head, gate, out, in]
  const float* b;           // (4, H, DH)
  const float* y_in;        // (B, H, DH) each
  const float* c_in;
  const float* n_in;
  const float* m_in;
  const int32_t* lengths;  // (B), or null
  void* hidden;            // (B, S, H, DH) T; zero beyond a row's length
  float* y_out;
  float* c_out;
  float* n_out;
  float* m_out;
  float forget_clamp;  // upper bound of the forget pre-activation; 0: none
};

}  // namespace xlstm
