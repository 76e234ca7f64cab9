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

inline bool derive_convolution(Extents& e) { return derive_rows(e) && e['K'] == e['L'] + 1; }

inline bool derive_projections(Extents& e) {
  e['K'] = e['H'] > 0 ? e['I'] / e['H'] : 0;
  return derive_rows(e) && e['W'] > 0 && e['G'] * e['W'] == e['I'] && e['H'] * e['K'] == e['I'] && e['J'] == 3 * e['I'];
}

inline bool derive_head_norm(Extents& e) { return e['B'] * e['S'] == e['N'] && e['H'] * e['D'] == e['I']; }

inline bool derive_tokens(Extents& e) { return e['B'] > 0 && e['S'] > 0; }

constexpr TensorSpec kTokensInputs[] = {{"tokens", Element::kInt64, "BS"}, {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kTokensOutputs[] = {{"y", Element::kInt64, "BS"}};

constexpr TensorSpec kLastInputs[] = {{"x", Element::kFloat, "NC"}, {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kLastOutputs[] = {{"y", Element::kFloat, "BC"}};

constexpr TensorSpec kConvInputs[] = {{"x", Element::kFloat, "NC"},
                                      {"window", Element::kFloat, "BLC"},
                                      {"weight", Element::kFloat, "KC"},
                                      {"bias", Element::kFloat, "C"},
                                      {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kConvOutputs[] = {{"y", Element::kFloat, "NC"}, {"window_next", Element::kFloat, "BLC"}};

constexpr TensorSpec kProjectionsInputs[] = {
    {"x_conv", Element::kFloat, "NI"},     {"x", Element::kFloat, "NI"},
    {"q_weight", Element::kFloat, "GWW"},  {"k_weight", Element::kFloat, "GWW"},
    {"v_weight", Element::kFloat, "GWW"},  {"i_weight", Element::kActivation, "HJ"},
    {"i_bias", Element::kActivation, "H"}, {"f_weight", Element::kActivation, "HJ"},
    {"f_bias", Element::kActivation, "H"}, {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kProjectionsOutputs[] = {{"q", Element::kActivation, "BSHK"},
                                              {"k", Element::kActivation, "BSHK"},
                                              {"v", Element::kActivation, "BSHK"},
                                              {"i", Element::kActivation, "BSH"},
                                              {"f", Element::kActivation, "BSH"}};

constexpr Attribute kHeadNormAttributes[] = {{"eps", 1e-6f, 0.0f}};
constexpr Attribute kSkipHeadNormAttributes[] = {{"eps", 1e-5f, 0.0f}};
constexpr TensorSpec kHeadNormInputs[] = {
    {"h", Element::kActivation, "BSHD"}, {"weight", Element::kFloat, "HD"}, {"gate", Element::kFloat, "NI"}};
constexpr TensorSpec kSkipHeadNormInputs[] = {{"h", Element::kActivation, "BSHD"},
                                              {"weight", Element::kFloat, "HD"},
                                              {"gate", Element::kFloat, "NI"},
                                              {"skip", Element::kFloat, "I"},
                                              {"x", Element::kFloat, "NI"}};
constexpr TensorSpec kHeadNormOutputs[] = {{"y", Element::kFloat, "NI"}};

}  // namespace contract

inline constexpr Operator kCausalConv{
    "CausalConv", {}, contract::kConvInputs, contract::kConvOutputs, 1, 1, 1, contract::derive_convolution};
inline constexpr Operator kMlstmProjections{
    "MLSTMProjections",          {}, contract::kProjectionsInputs, contract::kProjectionsOutputs, 0, 0, 1,
    contract::derive_projections};
inline constexpr Operator kGatedHeadNorm{"GatedHeadNorm",
                                         contract::kHeadNormAttributes,
                                         contract::kHeadNormInputs,
                                         contract::kHeadNormOutputs,
                                         0,
                                         0,
                                         0,
                                         contract::derive_head_norm};
inline constexpr Operator kSkipGatedHeadNorm{"SkipGatedHeadNorm",
                                             contract::kSkipHeadNormAttributes,
                                             contract::kSkipHeadNormInputs,
                                             contract::kHeadNormOutputs,
                                             0,
                                             0,
                                             0,
                                             contract::derive_head_norm};
inline constexpr Operator kValidTokens{
    "ValidTokens", {}, contract::kTokensInputs, contract::kTokensOutputs, 0, 0, 1, contract::derive_tokens};
inline constexpr Operator kLastPositions{
    "LastPositions", {}, contract::kLastInputs, contract::kLastOutputs, 0, 0, 0, contract::derive_rows};
inline constexpr const Operator* kLayerOperators[] = {&kCausalConv,        &kMlstmProjections, &kGatedHeadNorm,
                                                      &kSkipGatedHeadNorm, &kValidTokens,      &kLastPositions};

inline CausalConvArgs causal_conv_args(const Call& call) {
  const auto input = [&](size_t index) { return static_cast<const float*>(call.inputs[index]); };
  CausalConvArgs args{};
  args.batch = call.extents['B'];
  args.sequence = call.extents['S'];
  args.dim = call.extents['C'];
  args.kernel = call.extents['K'];
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

// Of both; the one without has neither `skip` nor `x`.
inline GatedHeadNormArgs gated_head_norm_args(const Call& call) {
  const auto input = [&](size_t index) { return static_cast<const float*>(call.inputs[index]); };
  GatedHeadNormArgs args{};
  args.positions = call.extents['N'];
  args.heads = call.extents['H'];
  args.dim = call.extents['D'];
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
