// Prints cells/contract.h as JSON, for tests/plugins/test_operator_contract.py.
#include <cstdio>

#include "cells/layer_contract.h"

namespace {

const char* name_of(xlstm::Element element) {
  switch (element) {
    case xlstm::Element::kActivation:
      return "T";
    case xlstm::Element::kRecurrent:
      return "TR";
    case xlstm::Element::kMemory:
      return "TC";
    case xlstm::Element::kFloat:
      return "tensor(float)";
    case xlstm::Element::kInt32:
      return "tensor(int32)";
    case xlstm::Element::kInt64:
      return "tensor(int64)";
  }
  return "";
}

void print_tensors(const char* title, const xlstm::Table<xlstm::TensorSpec>& tensors) {
  std::printf(", \"%s\": [", title);
  for (const xlstm::TensorSpec& tensor : tensors) {
    std::printf("%s[\"%s\", \"%s\", \"%s\"]", &tensor == tensors.begin() ? "" : ", ", tensor.name,
                name_of(tensor.element), tensor.shape);
  }
  std::printf("]");
}

void print_operator(const xlstm::Operator& op, const char* separator) {
  std::printf("%s{\"name\": \"%s\", \"first_state\": %zu, \"states\": %zu, \"optional\": %zu", separator, op.name,
              op.first_state, op.states, op.optional);
  print_tensors("inputs", op.inputs);
  print_tensors("outputs", op.outputs);
  std::printf(", \"attributes\": {");
  const char* comma = "";
  for (const xlstm::Attribute& attribute : op.attributes) {
    if (attribute.extent) continue;
    std::printf("%s\"%s\": %.9g", comma, attribute.name, static_cast<double>(attribute.fallback));
    comma = ", ";
  }
  std::printf("}, \"extents\": {");
  comma = "";
  for (const xlstm::Attribute& attribute : op.attributes) {
    if (!attribute.extent) continue;
    std::printf("%s\"%s\": \"%c\"", comma, attribute.name, attribute.extent);
    comma = ", ";
  }
  std::printf("}}");
}

}  // namespace

int main() {
  std::printf("{\"domain\": \"%s\", \"version\": %d, \"plugin_version\": \"%s\", \"operators\": [", xlstm::kDomain,
              xlstm::kVersion, xlstm::kPluginVersion);
  for (const xlstm::Operator* op : xlstm::kOperators) print_operator(*op, op == xlstm::kOperators[0] ? "" : ", ");
  for (const xlstm::Operator* op : xlstm::kLayerOperators) print_operator(*op, ", ");
  std::printf("]}\n");
}
