#include "tensorrt/cell.h"

#include "cells/cuda/launch.h"

namespace xlstm::tensorrt {
namespace {

// Letters: B batch, S sequence, H heads, K DK, V DV, D DH.

constexpr Attribute kMlstmAttributes[] = {
    {"q_scale", 1.0f, -3.0e38f}, {"k_scale", 1.0f, -3.0e38f}, {"gate_soft_cap", 0.0f, 0.0f}, {"eps", 1e-6f, 0.0f}};
constexpr TensorSpec kMlstmInputs[] = {
    {"q", Element::kActivation, "BSHK"}, {"k", Element::kActivation, "BSHK"}, {"v", Element::kActivation, "BSHV"},
    {"i", Element::kActivation, "BSH"},  {"f", Element::kActivation, "BSH"},  {"C", Element::kFloat, "BHKV"},
    {"n", Element::kFloat, "BHK"},       {"m", Element::kFloat, "BH"},        {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kMlstmOutputs[] = {{"h", Element::kActivation, "BSHV"},
                                        {"C_next", Element::kFloat, "BHKV"},
                                        {"n_next", Element::kFloat, "BHK"},
                                        {"m_next", Element::kFloat, "BH"}};

cudaError_t enqueue_mlstm(const Launch& launch, const void* const* in, void* const* out, void*, cudaStream_t stream) {
  const auto input = [&](int index) { return static_cast<const float*>(in[index]); };
  const auto output = [&](int index) { return static_cast<float*>(out[index]); };
  MlstmArgs args{};
  args.batch = launch.extents['B'];
  args.sequence = launch.extents['S'];
  args.heads = launch.extents['H'];
  args.dim_qk = launch.extents['K'];
  args.dim_v = launch.extents['V'];
  args.type = launch.type;
  args.q = in[0];
  args.k = in[1];
  args.v = in[2];
  args.i = in[3];
  args.f = in[4];
  args.C_in = input(5);
  args.n_in = input(6);
  args.m_in = input(7);
  args.lengths = launch.has_lengths ? static_cast<const int32_t*>(in[8]) : nullptr;
  args.h = out[0];
  args.C_out = output(1);
  args.n_out = output(2);
  args.m_out = output(3);
  args.q_scale = launch.attributes[0];
  args.k_scale = launch.attributes[1];
  args.gate_soft_cap = launch.attributes[2];
  args.eps = launch.attributes[3];
  return cuda::launch_mlstm(args, stream);
}

constexpr Attribute kSlstmAttributes[] = {{"forget_clamp", 0.0f, 0.0f}};
constexpr TensorSpec kSlstmInputs[] = {{"x", Element::kActivation, "BS4HD"}, {"R", Element::kRecurrent, "H4DD"},
                                       {"b", Element::kFloat, "4HD"},        {"y", Element::kFloat, "BHD"},
                                       {"c", Element::kFloat, "BHD"},        {"n", Element::kFloat, "BHD"},
                                       {"m", Element::kFloat, "BHD"},        {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kSlstmOutputs[] = {{"hidden", Element::kActivation, "BSHD"},
                                        {"y_next", Element::kFloat, "BHD"},
                                        {"c_next", Element::kFloat, "BHD"},
                                        {"n_next", Element::kFloat, "BHD"},
                                        {"m_next", Element::kFloat, "BHD"}};

cudaError_t enqueue_slstm(const Launch& launch, const void* const* in, void* const* out, void* workspace,
                          cudaStream_t stream) {
  const auto input = [&](int index) { return static_cast<const float*>(in[index]); };
  const auto output = [&](int index) { return static_cast<float*>(out[index]); };
  SlstmArgs args{};
  args.batch = launch.extents['B'];
  args.sequence = launch.extents['S'];
  args.heads = launch.extents['H'];
  args.dim = launch.extents['D'];
  args.type = launch.type;
  args.recurrent_type = launch.recurrent_type;
  args.x = in[0];
  args.R = in[1];
  args.b = input(2);
  args.y_in = input(3);
  args.c_in = input(4);
  args.n_in = input(5);
  args.m_in = input(6);
  args.lengths = launch.has_lengths ? static_cast<const int32_t*>(in[7]) : nullptr;
  args.hidden = out[0];
  args.y_out = output(1);
  args.c_out = output(2);
  args.n_out = output(3);
  args.m_out = output(4);
  args.forget_clamp = launch.attributes[0];
  return cuda::launch_slstm(args, workspace, stream);
}

size_t no_workspace(const Extents&) { return 0; }

size_t workspace_of_slstm(const Extents& extents) {
  return cuda::slstm_workspace_size(extents['B'], extents['H'], extents['D']);
}

template <typename T, size_t N>
constexpr int32_t count(const T (&)[N]) {
  return static_cast<int32_t>(N);
}

static_assert(count(kMlstmAttributes) <= kMaxAttributes && count(kSlstmAttributes) <= kMaxAttributes);

}  // namespace

const Cell kMlstmCell{"MLSTMCell",          kMlstmAttributes,    count(kMlstmAttributes),
                      kMlstmInputs,         count(kMlstmInputs), kMlstmOutputs,
                      count(kMlstmOutputs), no_workspace,        enqueue_mlstm};
const Cell kSlstmCell{"SLSTMCell",   kSlstmAttributes,     count(kSlstmAttributes), kSlstmInputs, count(kSlstmInputs),
                      kSlstmOutputs, count(kSlstmOutputs), workspace_of_slstm,      enqueue_slstm};

}  // namespace xlstm::tensorrt
