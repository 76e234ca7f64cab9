// The cells of domain ai.xlstm as data: attributes, tensors, and how a node's tensors become a kernel's arguments.
// layer_contract.h has what stands around them. Both bindings read it; tests/plugins/test_operator_contract.py holds it
// against xlstm_export/operators.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cells/cells.h"

namespace xlstm {

constexpr const char* kDomain = "ai.xlstm";
constexpr int kVersion = 1;
constexpr const char* kPluginVersion = "1";  // the same, as every node carries it for TensorRT beside the domain

struct Attribute {
  const char* name;
  float fallback;   // the value where a node does not say
  float minimum;    // the smallest value allowed
  char extent = 0;  // a letter of shapes: the attribute is an integer, which every node says, and that extent
};

enum class Element : int32_t {
  kActivation,  // T: float, float16 or bfloat16, the same for all tensors of the node
  kRecurrent,   // T or float
  kMemory,      // TC: float, float16 or bfloat16, whatever T is; the computation is float
  kFloat,
  kInt32,
  kInt64,
};

// A tensor of an operator. `shape` has one letter for each axis; the same letter is the same extent everywhere in the
// node, a digit is that extent. B batch, S sequence, H heads, K DK, V DV, D DH.
struct TensorSpec {
  const char* name;
  Element element;
  const char* shape;
};

// A table whose length is not part of its type.
template <typename T>
class Table {
 public:
  constexpr Table() : rows_(nullptr), size_(0) {}
  template <size_t N>
  constexpr Table(const T (&rows)[N]) : rows_(rows), size_(N) {}  // NOLINT(google-explicit-constructor)
  constexpr size_t size() const { return size_; }
  constexpr const T* begin() const { return rows_; }
  constexpr const T* end() const { return rows_ + size_; }
  constexpr const T& operator[](size_t row) const { return rows_[row]; }

 private:
  const T* rows_;
  size_t size_;
};

// Something for every letter of a shape.
template <typename T>
class ByLetter {
 public:
  explicit ByLetter(T value) { values_.fill(value); }
  T& operator[](char letter) { return values_[static_cast<size_t>(letter - 'A')]; }
  const T& operator[](char letter) const { return values_[static_cast<size_t>(letter - 'A')]; }

 private:
  std::array<T, 26> values_;
};

constexpr bool is_letter(char axis) { return axis >= 'A'; }

constexpr int64_t kUnknown = -1;
using Extents = ByLetter<int64_t>;

struct Operator {
  const char* name;
  Table<Attribute> attributes;
  Table<TensorSpec> inputs;   // of a cell, the last one is `lengths`, which may be absent
  Table<TensorSpec> outputs;  // of a cell, the first one is the activation; then the states
  size_t first_state;         // the input whose next value is output 1; the other states follow in the same order
  size_t states;
  size_t optional = 1;                 // how many of the last inputs may be absent
  bool (*derive)(Extents&) = nullptr;  // extents that no input has on an axis of its own; false: they do not fit
};

namespace contract {

constexpr float kAnything = -3.0e38f;

constexpr Attribute kMlstmAttributes[] = {
    {"q_scale", 1.0f, kAnything}, {"k_scale", 1.0f, kAnything}, {"gate_soft_cap", 0.0f, 0.0f}, {"eps", 1e-6f, 0.0f}};
constexpr TensorSpec kMlstmInputs[] = {
    {"q", Element::kActivation, "BSHK"}, {"k", Element::kActivation, "BSHK"}, {"v", Element::kActivation, "BSHV"},
    {"i", Element::kActivation, "BSH"},  {"f", Element::kActivation, "BSH"},  {"C", Element::kMemory, "BHKV"},
    {"n", Element::kFloat, "BHK"},       {"m", Element::kFloat, "BH"},        {"lengths", Element::kInt32, "B"}};
constexpr TensorSpec kMlstmOutputs[] = {{"h", Element::kActivation, "BSHV"},
                                        {"C_next", Element::kMemory, "BHKV"},
                                        {"n_next", Element::kFloat, "BHK"},
                                        {"m_next", Element::kFloat, "BH"}};

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

}  // namespace contract

inline constexpr Operator kMlstm{
    "MLSTMCell", contract::kMlstmAttributes, contract::kMlstmInputs, contract::kMlstmOutputs, 5, 3};
inline constexpr Operator kSlstm{
    "SLSTMCell", contract::kSlstmAttributes, contract::kSlstmInputs, contract::kSlstmOutputs, 3, 4};
inline constexpr const Operator* kOperators[] = {&kMlstm, &kSlstm};

constexpr size_t kMaxAttributes = 4, kMaxInputs = 10, kMaxOutputs = 6;
constexpr bool fit_into_a_call(Table<const Operator*> operators) {
  for (const Operator* op : operators) {
    if (op->attributes.size() > kMaxAttributes || op->inputs.size() > kMaxInputs) return false;
    if (op->outputs.size() > kMaxOutputs) return false;
  }
  return true;
}
static_assert(fit_into_a_call(kOperators));

// One node with everything that its kernel needs, in the order of the tables.
struct Call {
  Extents extents{kUnknown};
  DataType type = DataType::kFloat32, recurrent_type = DataType::kFloat32, memory_type = DataType::kFloat32;
  std::array<float, kMaxAttributes> attributes{};
  std::array<const void*, kMaxInputs> inputs{};  // null for `lengths` where it is absent
  std::array<void*, kMaxOutputs> outputs{};
  const void* prepared = nullptr;  // what a kernel has made of its constant inputs
};

inline MlstmArgs mlstm_args(const Call& call) {
  const auto input = [&](size_t index) { return static_cast<const float*>(call.inputs[index]); };
  const auto output = [&](size_t index) { return static_cast<float*>(call.outputs[index]); };
  MlstmArgs args{};
  args.batch = call.extents['B'];
  args.sequence = call.extents['S'];
  args.heads = call.extents['H'];
  args.dim_qk = call.extents['K'];
  args.dim_v = call.extents['V'];
  args.type = call.type;
  args.memory_type = call.memory_type;
  args.q = call.inputs[0];
  args.k = call.inputs[1];
  args.v = call.inputs[2];
  args.i = call.inputs[3];
  args.f = call.inputs[4];
  args.C_in = call.inputs[5];
  args.n_in = input(6);
  args.m_in = input(7);
  args.lengths = static_cast<const int32_t*>(call.inputs[8]);
  args.h = call.outputs[0];
  args.C_out = call.outputs[1];
  args.n_out = output(2);
  args.m_out = output(3);
  args.q_scale = call.attributes[0];
  args.k_scale = call.attributes[1];
  args.gate_soft_cap = call.attributes[2];
  args.eps = call.attributes[3];
  return args;
}

inline SlstmArgs slstm_args(const Call& call) {
  const auto input = [&](size_t index) { return static_cast<const float*>(call.inputs[index]); };
  const auto output = [&](size_t index) { return static_cast<float*>(call.outputs[index]); };
  SlstmArgs args{};
  args.batch = call.extents['B'];
  args.sequence = call.extents['S'];
  args.heads = call.extents['H'];
  args.dim = call.extents['D'];
  args.type = call.type;
  args.recurrent_type = call.recurrent_type;
  args.x = call.inputs[0];
  args.R = call.inputs[1];
  args.b = input(2);
  args.y_in = input(3);
  args.c_in = input(4);
  args.n_in = input(5);
  args.m_in = input(6);
  args.lengths = static_cast<const int32_t*>(call.inputs[7]);
  args.hidden = call.outputs[0];
  args.y_out = output(1);
  args.c_out = output(2);
  args.n_out = output(3);
  args.m_out = output(4);
  args.forget_clamp = call.attributes[0];
  return args;
}

}  // namespace xlstm
