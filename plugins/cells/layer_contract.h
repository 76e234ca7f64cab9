// What stands around the cells, as contract.h has the cells. ONNX Runtime's binding reads it; TensorRT takes the
// definitions. Shapes: N = B S positions; C columns, L = K - 1 columns of a window, G blocks of W, I = G W = H K inner
// columns, J = 3 I.
#pragma once

#include "cells/contract.h"
#include "cells/layers.h"

namespace xlstm {
namespace contract {

// B, which `lengths` tells, and S.
inline bool derive_rows(Extents& e) {
  if (e['B'] == kUnknown) e['B'] = e['N'];
  e['S'] = e['B'] > 0 ? e['N'] / e['B'] : 0;
  return e['B'] * e['S'] == e['N'];
}

// The first C of X columns.
inline bool derive_convolution(Extents& e) { return derive_rows(e) && e['K'] == e['L'] + 1 && e['X'] >= e['C']; }

inline bool derive_projections(Extents& e) {
  e['K'] = e['H'] > 0 ? e['I'] / e['H'] : 0;
  return derive_rows(e) && e['W'] > 0 && e['G'] * e['W'] == e['I'] && e['H'] * e['K'] == e['I'] &&
         e['J'] == 3 * e['I'] && e['X'] >= e['I'];
}

inline bool derive_gates(Extents& e) { return derive_rows(e) && e['H'] * e['D'] == e['C']; }

inline bool derive_heads(Extents& e) {
  e['I'] = e['H'] * e['V'];
  return derive_rows(e) && e['X'] == 2 * e['H'] * (e['K'] + e['V']) && e['Z'] == 2 * e['H'];
}

inline bool derive_head_norm(Extents& e) {
  if (e['N'] == kUnknown) e['N'] = e['B'] * e['S'];
  if (e['I'] == kUnknown) e['I'] = e['H'] * e['D'];
  if (e['Z'] == kUnknown) e['Z'] = e['I'];
  return e['B'] * e['S'] == e['N'] && e['H'] * e['D'] == e['I'] && e['Z'] >= e['I'];
}

inline bool derive_halves(Extents& e) {
  e['F'] = e['X'] / 2;
  return 2 * e['F'] == e['X'];
}

inline bool derive_tokens(Extents& e) { return e['B'] > 0 && e['S'] > 0; }

constexpr TensorSpec kTokensInputs[] = {{"tokens", Element::kInt64, "BS"}, {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kTokensOutputs[] = {{"y", Element::kInt64, "BS"}};

constexpr TensorSpec kLastInputs[] = {{"x", Element::kFloat, "NC"}, {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kLastOutputs[] = {{"y", Element::kFloat, "BC"}};

constexpr TensorSpec kConvInputs[] = {{"x", Element::kFloat, "NX"},
                                      {"window", Element::kFloat, "BLC"},
                                      {"weight", Element::kFloat, "KC"},
                                      {"bias", Element::kFloat, "C"},
                                      {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kConvOutputs[] = {{"y", Element::kFloat, "NC"}, {"window_next", Element::kFloat, "BLC"}};

constexpr TensorSpec kProjectionsInputs[] = {
    {"x_conv", Element::kFloat, "NI"},     {"x", Element::kFloat, "NX"},
    {"q_weight", Element::kFloat, "GWW"},  {"k_weight", Element::kFloat, "GWW"},
    {"v_weight", Element::kFloat, "GWW"},  {"i_weight", Element::kActivation, "HJ"},
    {"i_bias", Element::kActivation, "H"}, {"f_weight", Element::kActivation, "HJ"},
    {"f_bias", Element::kActivation, "H"}, {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kProjectionsOutputs[] = {{"q", Element::kActivation, "BSHK"},
                                              {"k", Element::kActivation, "BSHK"},
                                              {"v", Element::kActivation, "BSHK"},
                                              {"i", Element::kActivation, "BSH"},
                                              {"f", Element::kActivation, "BSH"}};

constexpr TensorSpec kGatesInputs[] = {
    {"x_conv", Element::kFloat, "NC"},         {"x", Element::kFloat, "NC"},
    {"i_weight", Element::kActivation, "HDD"}, {"f_weight", Element::kActivation, "HDD"},
    {"z_weight", Element::kActivation, "HDD"}, {"o_weight", Element::kActivation, "HDD"},
    {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kGatesOutputs[] = {{"gates", Element::kActivation, "BS4HD"}};

constexpr Attribute kHeadsAttributes[] = {
    {"heads", 0.0f, 1.0f, 'H'}, {"qk_head", 0.0f, 1.0f, 'K'}, {"v_head", 0.0f, 1.0f, 'V'}};
constexpr TensorSpec kHeadsInputs[] = {
    {"x", Element::kActivation, "NX"}, {"gates", Element::kActivation, "NZ"}, {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kHeadsOutputs[] = {{"q", Element::kActivation, "BSHK"}, {"k", Element::kActivation, "BSHK"},
                                        {"v", Element::kActivation, "BSHV"}, {"i", Element::kActivation, "BSH"},
                                        {"f", Element::kActivation, "BSH"},  {"o", Element::kFloat, "NI"}};

constexpr Attribute kEps5[] = {{"eps", 1e-5f, 0.0f}}, kEps6[] = {{"eps", 1e-6f, 0.0f}};
constexpr TensorSpec kHeadNormInputs[] = {{"h", Element::kActivation, "BSHD"}, {"weight", Element::kFloat, "HD"}};
constexpr TensorSpec kGatedHeadNormInputs[] = {
    {"h", Element::kActivation, "BSHD"}, {"weight", Element::kFloat, "HD"}, {"gate", Element::kFloat, "NZ"}};
constexpr TensorSpec kSkipHeadNormInputs[] = {{"h", Element::kActivation, "BSHD"},
                                              {"weight", Element::kFloat, "HD"},
                                              {"gate", Element::kFloat, "NZ"},
                                              {"skip", Element::kFloat, "I"},
                                              {"x", Element::kFloat, "NI"}};
constexpr TensorSpec kHeadNormOutputs[] = {{"y", Element::kFloat, "NI"}};

constexpr TensorSpec kAddNormInputs[] = {
    {"x", Element::kFloat, "NC"}, {"y", Element::kActivation, "NC"}, {"weight", Element::kFloat, "C"}};
constexpr TensorSpec kAddNormOutputs[] = {{"normal", Element::kFloat, "NC"}, {"x_next", Element::kFloat, "NC"}};

constexpr Attribute kCapAttributes[] = {{"cap", 30.0f, 1e-30f}};
constexpr TensorSpec kCapInputs[] = {{"x", Element::kActivation, "BSV"}};
constexpr TensorSpec kCapOutputs[] = {{"y", Element::kFloat, "BSV"}};

constexpr TensorSpec kUnitInputs[] = {{"x", Element::kActivation, "NX"}};
constexpr TensorSpec kUnitOutputs[] = {{"y", Element::kActivation, "NF"}};

}  // namespace contract

// Name, attributes, inputs, outputs; the first state and how many; how many of the last inputs may be absent.
inline constexpr Operator kCausalConv{
    "CausalConv", {}, contract::kConvInputs, contract::kConvOutputs, 1, 1, 1, contract::derive_convolution};
inline constexpr Operator kMlstmProjections{
    "MLSTMProjections",          {}, contract::kProjectionsInputs, contract::kProjectionsOutputs, 0, 0, 1,
    contract::derive_projections};
inline constexpr Operator kSlstmProjections{
    "SLSTMProjections", {}, contract::kGatesInputs, contract::kGatesOutputs, 0, 0, 1, contract::derive_gates};
inline constexpr Operator kMlstmHeads{
    "MLSTMHeads",          contract::kHeadsAttributes, contract::kHeadsInputs, contract::kHeadsOutputs, 0, 0, 1,
    contract::derive_heads};
inline constexpr Operator kHeadNorm{
    "HeadNorm", contract::kEps5,           contract::kHeadNormInputs, contract::kHeadNormOutputs, 0, 0,
    0,          contract::derive_head_norm};
inline constexpr Operator kGatedHeadNorm{
    "GatedHeadNorm",           contract::kEps6, contract::kGatedHeadNormInputs, contract::kHeadNormOutputs, 0, 0, 0,
    contract::derive_head_norm};
inline constexpr Operator kSkipGatedHeadNorm{
    "SkipGatedHeadNorm",       contract::kEps5, contract::kSkipHeadNormInputs, contract::kHeadNormOutputs, 0, 0, 0,
    contract::derive_head_norm};
// The residual stream is a state: x_next may take its place.
inline constexpr Operator kAddLayerNorm{
    "AddLayerNorm", contract::kEps5, contract::kAddNormInputs, contract::kAddNormOutputs, 0, 1, 0};
inline constexpr Operator kAddRmsNorm{
    "AddRMSNorm", contract::kEps6, contract::kAddNormInputs, contract::kAddNormOutputs, 0, 1, 0};
inline constexpr Operator kGeglu{"GEGLU", {}, contract::kUnitInputs,  contract::kUnitOutputs, 0,
                                 0,       0,  contract::derive_halves};
inline constexpr Operator kSwiglu{"SwiGLU", {}, contract::kUnitInputs,  contract::kUnitOutputs, 0,
                                  0,        0,  contract::derive_halves};
inline constexpr Operator kSoftCap{
    "SoftCap", contract::kCapAttributes, contract::kCapInputs, contract::kCapOutputs, 0, 0, 0};
inline constexpr Operator kValidTokens{
    "ValidTokens", {}, contract::kTokensInputs, contract::kTokensOutputs, 0, 0, 1, contract::derive_tokens};
inline constexpr Operator kLastPositions{
    "LastPositions", {}, contract::kLastInputs, contract::kLastOutputs, 0, 0, 0, contract::derive_rows};
inline constexpr const Operator* kLayerOperators[] = {
    &kCausalConv,    &kMlstmProjections,  &kSlstmProjections, &kMlstmHeads,   &kHeadNorm,
    &kGatedHeadNorm, &kSkipGatedHeadNorm, &kAddLayerNorm,     &kAddRmsNorm,   &kGeglu,
    &kSwiglu,        &kSoftCap,           &kValidTokens,      &kLastPositions};

static_assert(fit_into_a_call(kLayerOperators));

inline CausalConvArgs causal_conv_args(const Call& call) {
  const auto input = [&](size_t index) { return static_cast<const float*>(call.inputs[index]); };
  CausalConvArgs args{};
  args.batch = call.extents['B'];
  args.sequence = call.extents['S'];
  args.dim = call.extents['C'];
  args.kernel = call.extents['K'];
  args.x_width = call.extents['X'];
  args.x = input(0);
  args.window_in = input(1);
  args.weight = input(2);
  args.bias = input(3);
  args.lengths = static_cast<const int32_t*>(call.inputs[4]);
  args.y = static_cast<float*>(call.outputs[0]);
  args.window_out = static_cast<float*>(call.outputs[1]);
  return args;
}

inline MlstmProjectionsArgs mlstm_projections_args(const Call& call) {
  const auto input = [&](size_t index) { return static_cast<const float*>(call.inputs[index]); };
  MlstmProjectionsArgs args{};
  args.batch = call.extents['B'];
  args.sequence = call.extents['S'];
  args.heads = call.extents['H'];
  args.inner = call.extents['I'];
  args.width = call.extents['W'];
  args.x_width = call.extents['X'];
  args.type = call.type;
  args.x_conv = input(0);
  args.x = input(1);
  args.q_weight = input(2);
  args.k_weight = input(3);
  args.v_weight = input(4);
  args.i_weight = call.inputs[5];
  args.i_bias = call.inputs[6];
  args.f_weight = call.inputs[7];
  args.f_bias = call.inputs[8];
  args.lengths = static_cast<const int32_t*>(call.inputs[9]);
  args.q = call.outputs[0];
  args.k = call.outputs[1];
  args.v = call.outputs[2];
  args.i = call.outputs[3];
  args.f = call.outputs[4];
  return args;
}

inline SlstmProjectionsArgs slstm_projections_args(const Call& call) {
  SlstmProjectionsArgs args{};
  args.positions = call.extents['N'];
  args.heads = call.extents['H'];
  args.dim = call.extents['D'];
  args.type = call.type;
  args.x_conv = static_cast<const float*>(call.inputs[0]);
  args.x = static_cast<const float*>(call.inputs[1]);
  args.i_weight = call.inputs[2];
  args.f_weight = call.inputs[3];
  args.z_weight = call.inputs[4];
  args.o_weight = call.inputs[5];
  args.gates = call.outputs[0];
  return args;
}

inline MlstmHeadsArgs mlstm_heads_args(const Call& call) {
  MlstmHeadsArgs args{};
  args.positions = call.extents['N'];
  args.heads = call.extents['H'];
  args.dim_qk = call.extents['K'];
  args.dim_v = call.extents['V'];
  args.type = call.type;
  args.x = call.inputs[0];
  args.gates = call.inputs[1];
  args.q = call.outputs[0];
  args.k = call.outputs[1];
  args.v = call.outputs[2];
  args.i = call.outputs[3];
  args.f = call.outputs[4];
  args.o = static_cast<float*>(call.outputs[5]);
  return args;
}

// Of all three; those with fewer inputs have none of `gate`, `skip` and `x`.
inline HeadNormArgs head_norm_args(const Call& call) {
  const auto input = [&](size_t index) { return static_cast<const float*>(call.inputs[index]); };
  HeadNormArgs args{};
  args.positions = call.extents['N'];
  args.heads = call.extents['H'];
  args.dim = call.extents['D'];
  args.gate_width = call.extents['Z'];
  args.type = call.type;
  args.h = call.inputs[0];
  args.weight = input(1);
  args.gate = input(2);
  args.skip = input(3);
  args.x = input(4);
  args.y = static_cast<float*>(call.outputs[0]);
  args.eps = call.attributes[0];
  return args;
}

inline AddNormArgs add_norm_args(const Call& call, bool centred) {
  AddNormArgs args{};
  args.positions = call.extents['N'];
  args.dim = call.extents['C'];
  args.type = call.type;
  args.centred = centred;
  args.x = static_cast<const float*>(call.inputs[0]);
  args.y = call.inputs[1];
  args.weight = static_cast<const float*>(call.inputs[2]);
  args.normal = static_cast<float*>(call.outputs[0]);
  args.x_next = static_cast<float*>(call.outputs[1]);
  args.eps = call.attributes[0];
  return args;
}

inline GatedLinearUnitArgs gated_linear_unit_args(const Call& call, bool gelu) {
  GatedLinearUnitArgs args{};
  args.positions = call.extents['N'];
  args.dim = call.extents['F'];
  args.type = call.type;
  args.gelu = gelu;
  args.x = call.inputs[0];
  args.y = call.outputs[0];
  return args;
}

inline SoftCapArgs soft_cap_args(const Call& call) {
  SoftCapArgs args{};
  args.count = call.extents['B'] * call.extents['S'] * call.extents['V'];
  args.type = call.type;
  args.x = call.inputs[0];
  args.y = static_cast<float*>(call.outputs[0]);
  args.cap = call.attributes[0];
  return args;
}

inline ValidTokensArgs valid_tokens_args(const Call& call) {
  ValidTokensArgs args{};
  args.batch = call.extents['B'];
  args.sequence = call.extents['S'];
  args.tokens = static_cast<const int64_t*>(call.inputs[0]);
  args.lengths = static_cast<const int32_t*>(call.inputs[1]);
  args.y = static_cast<int64_t*>(call.outputs[0]);
  return args;
}

inline LastPositionsArgs last_positions_args(const Call& call) {
  LastPositionsArgs args{};
  args.batch = call.extents['B'];
  args.sequence = call.extents['S'];
  args.dim = call.extents['C'];
  args.x = static_cast<const float*>(call.inputs[0]);
  args.lengths = static_cast<const int32_t*>(call.inputs[1]);
  args.y = static_cast<float*>(call.outputs[0]);
  return args;
}

}  // namespace xlstm
