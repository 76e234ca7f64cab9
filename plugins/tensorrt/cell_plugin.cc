#include "tensorrt/cell_plugin.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>

#include "tensorrt/log.h"

namespace xlstm::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr int32_t kSuccess = 0, kFailure = -1;  // what TensorRT takes a plugin's return value for

// Thrown by the checks below and turned into a message and a code before it reaches TensorRT.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Runs `body`; nothing it throws gets out. On failure logs the reason and returns `failure`.
template <typename Result, typename Body>
Result guarded(const Cell& cell, Result failure, Body&& body) noexcept {
  try {
    return body();
  } catch (const std::exception& problem) {
    try {
      log_error(std::string("xlstm: ") + cell.op.name + ": " + problem.what());
    } catch (...) {  // out of memory: nothing left to say it with
    }
  } catch (...) {
  }
  return failure;
}

std::string text(const nvinfer1::Dims& dims) {
  std::string result = "(";
  for (int32_t axis = 0; axis < dims.nbDims; ++axis) result += (axis ? ", " : "") + std::to_string(dims.d[axis]);
  return result + ")";
}

std::string text(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return "float32";
    case nvinfer1::DataType::kHALF:
      return "float16";
    case nvinfer1::DataType::kBF16:
      return "bfloat16";
    case nvinfer1::DataType::kINT32:
      return "int32";
    default:
      return "type " + std::to_string(static_cast<int32_t>(type));
  }
}

bool is_activation(nvinfer1::DataType type) {
  return type == nvinfer1::DataType::kFLOAT || type == nvinfer1::DataType::kHALF || type == nvinfer1::DataType::kBF16;
}

DataType cell_type(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return DataType::kFloat32;
    case nvinfer1::DataType::kHALF:
      return DataType::kFloat16;
    case nvinfer1::DataType::kBF16:
      return DataType::kBFloat16;
    default:
      throw Refusal(text(type) + " is no activation type");
  }
}

// The input whose type a tensor's own has to do with: the memory for itself and its next value, else the first.
size_t leader(const Cell& cell, const TensorSpec& spec) {
  return spec.element == Element::kMemory ? cell.op.first_state : 0;
}

// `leader` is the type of the tensor's leader.
bool accepts(Element element, nvinfer1::DataType type, nvinfer1::DataType leader) {
  switch (element) {
    case Element::kActivation:
    case Element::kMemory:
      return is_activation(type) && type == leader;
    case Element::kRecurrent:
      return type == nvinfer1::DataType::kFLOAT || (is_activation(type) && type == leader);
    case Element::kFloat:
      return type == nvinfer1::DataType::kFLOAT;
    case Element::kInt32:
      return type == nvinfer1::DataType::kINT32;
  }
  return false;
}

void check_counts(const Cell& cell, int32_t inputs, int32_t outputs) {
  const auto most_inputs = static_cast<int32_t>(cell.op.inputs.size());
  const auto all_outputs = static_cast<int32_t>(cell.op.outputs.size());
  if ((inputs != most_inputs && inputs != most_inputs - 1) || outputs != all_outputs) {
    throw Refusal("has " + std::to_string(inputs) + " inputs and " + std::to_string(outputs) + " outputs, expected " +
                  std::to_string(most_inputs - 1) + " or " + std::to_string(most_inputs) + " (with lengths) and " +
                  std::to_string(all_outputs));
  }
}

void check_type(const TensorSpec& spec, nvinfer1::DataType type, nvinfer1::DataType leader) {
  if (accepts(spec.element, type, leader)) return;
  const char* const expected = spec.element == Element::kFloat    ? "float32"
                               : spec.element == Element::kInt32  ? "int32"
                               : spec.element == Element::kMemory ? "float32, float16 or bfloat16, before and after"
                               : spec.element == Element::kRecurrent
                                   ? "float32 or the type of the first input"
                                   : "float32, float16 or bfloat16, as the first input";
  throw Refusal(std::string("tensor ") + spec.name + " is " + text(type) + ", expected " + expected);
}

// Holds `dims` against the letters of `spec`, and adds what they tell to `extents`. Extents < 0 are not known yet.
void check_shape(const TensorSpec& spec, const nvinfer1::Dims& dims, Extents& extents) {
  const auto refuse = [&](const std::string& reason) {
    throw Refusal(std::string("tensor ") + spec.name + " has shape " + text(dims) + ", expected [" + spec.shape +
                  "]: " + reason);
  };
  if (dims.nbDims != static_cast<int32_t>(std::strlen(spec.shape))) refuse("wrong number of axes");
  for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
    const char letter = spec.shape[axis];
    const int64_t extent = dims.d[axis];
    if (extent < 0) continue;
    if (!is_letter(letter)) {
      if (extent != letter - '0') refuse("axis " + std::to_string(axis) + " must be " + letter);
    } else if (extent == 0) {
      refuse("axis " + std::to_string(axis) + " is empty");
    } else if (extents[letter] == kUnknown) {
      extents[letter] = extent;
    } else if (extents[letter] != extent) {
      refuse(std::string(1, letter) + " is " + std::to_string(extents[letter]) + " in a tensor before");
    }
  }
}

// Types and shapes of all tensors; `get` gives the PluginTensorDesc at a position (inputs, then outputs).
template <typename Get>
Extents check_tensors(const Cell& cell, int32_t inputs, int32_t outputs, Get&& get) {
  check_counts(cell, inputs, outputs);
  Extents extents(kUnknown);
  for (int32_t position = 0; position < inputs + outputs; ++position) {
    const TensorSpec& spec = position < inputs ? cell.op.inputs[position] : cell.op.outputs[position - inputs];
    check_type(spec, get(position).type, get(static_cast<int32_t>(leader(cell, spec))).type);
    check_shape(spec, get(position).dims, extents);
  }
  return extents;
}

// The value of a float attribute, checked.
float attribute_value(const Attribute& attribute, const PluginField& field) {
  const auto refuse = [&](const std::string& reason) {
    throw Refusal(std::string("attribute ") + attribute.name + " " + reason);
  };
  if (field.type != PluginFieldType::kFLOAT32) {
    refuse("has field type " + std::to_string(static_cast<int32_t>(field.type)) + ", expected float32");
  }
  if (field.length != 1 || field.data == nullptr) refuse("must be one value");
  float value;
  std::memcpy(&value, field.data, sizeof value);
  if (!std::isfinite(value)) refuse("is not finite");
  if (value < attribute.minimum) {
    refuse("= " + std::to_string(value) + " is below " + std::to_string(attribute.minimum));
  }
  return value;
}

void check_format_version(const PluginField& field) {
  int32_t version = 0;
  if (field.type == PluginFieldType::kINT32 && field.length == 1 && field.data) {
    std::memcpy(&version, field.data, sizeof version);
  }
  if (version != kFormatVersion) {
    throw Refusal("the engine stores format version " + std::to_string(version) + ", this library reads version " +
                  std::to_string(kFormatVersion) + ": rebuild the engine with this library");
  }
}

AttributeValues read_fields(const Cell& cell, const nvinfer1::PluginFieldCollection* fields,
                            nvinfer1::TensorRTPhase phase) {
  if (fields == nullptr || (fields->nbFields > 0 && fields->fields == nullptr)) throw Refusal("null field collection");
  const Table<Attribute>& attributes = cell.op.attributes;
  AttributeValues values{};
  std::array<bool, kMaxAttributes> seen{};
  bool version_seen = false;
  for (size_t i = 0; i < attributes.size(); ++i) values[i] = attributes[i].fallback;
  for (int32_t f = 0; f < fields->nbFields; ++f) {
    const PluginField& field = fields->fields[f];
    if (field.name == nullptr) throw Refusal("a field has no name");
    if (std::strcmp(field.name, kFormatVersionField) == 0) {
      check_format_version(field);
      version_seen = true;
      continue;
    }
    // What every node of the graph carries beside its attributes.
    if (!std::strcmp(field.name, "plugin_version") || !std::strcmp(field.name, "plugin_namespace")) continue;
    const Attribute* const attribute = std::find_if(
        attributes.begin(), attributes.end(), [&](const Attribute& a) { return std::strcmp(a.name, field.name) == 0; });
    if (attribute == attributes.end()) throw Refusal(std::string("attribute ") + field.name + " is unknown");
    values[attribute - attributes.begin()] = attribute_value(*attribute, field);
    seen[attribute - attributes.begin()] = true;
  }
  if (phase == nvinfer1::TensorRTPhase::kRUNTIME) {
    if (!version_seen) throw Refusal("the engine stores no format version: rebuild the engine with this library");
    for (size_t i = 0; i < attributes.size(); ++i) {
      if (!seen[i]) throw Refusal(std::string("the engine stores no ") + attributes[i].name + ": rebuild it");
    }
  }
  return values;
}

}  // namespace

CellPlugin::CellPlugin(const Cell& cell, const AttributeValues& attributes) : cell_(cell) {
  call_.attributes = attributes;
}

nvinfer1::IPluginCapability* CellPlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuildV2*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* CellPlugin::clone() noexcept {
  return guarded<nvinfer1::IPluginV3*>(cell_, nullptr, [&] {
    auto* const copy = new CellPlugin(cell_, call_.attributes);
    copy->call_ = call_;
    copy->has_lengths_ = has_lengths_;
    copy->ready_ = ready_;
    return copy;
  });
}

int32_t CellPlugin::configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t input_count,
                                    nvinfer1::DynamicPluginTensorDesc const* out, int32_t output_count) noexcept {
  return guarded(cell_, kFailure, [&] {
    check_tensors(cell_, input_count, output_count, [&](int32_t position) -> const nvinfer1::PluginTensorDesc& {
      return position < input_count ? in[position].desc : out[position - input_count].desc;
    });
    return kSuccess;
  });
}

bool CellPlugin::supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* in_out,
                                           int32_t input_count, int32_t output_count) noexcept {
  return guarded(cell_, false, [&] {
    check_counts(cell_, input_count, output_count);
    if (position < 0 || position >= input_count + output_count) return false;
    const TensorSpec& spec =
        position < input_count ? cell_.op.inputs[position] : cell_.op.outputs[position - input_count];
    const nvinfer1::PluginTensorDesc& description = in_out[position].desc;
    return description.format == nvinfer1::TensorFormat::kLINEAR &&
           accepts(spec.element, description.type, in_out[leader(cell_, spec)].desc.type);
  });
}

int32_t CellPlugin::getOutputDataTypes(nvinfer1::DataType* output_types, int32_t output_count,
                                       nvinfer1::DataType const* input_types, int32_t input_count) const noexcept {
  return guarded(cell_, kFailure, [&] {
    check_counts(cell_, input_count, output_count);
    for (int32_t i = 0; i < input_count; ++i) {
      check_type(cell_.op.inputs[i], input_types[i], input_types[leader(cell_, cell_.op.inputs[i])]);
    }
    for (int32_t i = 0; i < output_count; ++i) {
      const TensorSpec& spec = cell_.op.outputs[i];
      output_types[i] = spec.element == Element::kFloat ? nvinfer1::DataType::kFLOAT : input_types[leader(cell_, spec)];
    }
    return kSuccess;
  });
}

int32_t CellPlugin::getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count, nvinfer1::DimsExprs const*,
                                    int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                                    nvinfer1::IExprBuilder&) noexcept {
  return guarded(cell_, kFailure, [&] {
    check_counts(cell_, input_count, output_count);
    ByLetter<const nvinfer1::IDimensionExpr*> extents(nullptr);
    for (int32_t i = 0; i < input_count; ++i) {
      const TensorSpec& spec = cell_.op.inputs[i];
      if (inputs[i].nbDims != static_cast<int32_t>(std::strlen(spec.shape))) {
        throw Refusal(std::string("tensor ") + spec.name + " has " + std::to_string(inputs[i].nbDims) +
                      " axes, expected [" + spec.shape + "]");
      }
      for (int32_t axis = 0; axis < inputs[i].nbDims; ++axis) {
        const char letter = spec.shape[axis];
        if (is_letter(letter) && extents[letter] == nullptr) extents[letter] = inputs[i].d[axis];
      }
    }
    for (int32_t i = 0; i < output_count; ++i) {
      const char* const shape = cell_.op.outputs[i].shape;  // letters only, all of which some input has
      outputs[i].nbDims = static_cast<int32_t>(std::strlen(shape));
      for (int32_t axis = 0; axis < outputs[i].nbDims; ++axis) outputs[i].d[axis] = extents[shape[axis]];
    }
    return kSuccess;
  });
}

size_t CellPlugin::getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t input_count,
                                    nvinfer1::DynamicPluginTensorDesc const* outputs,
                                    int32_t output_count) const noexcept {
  return guarded(cell_, size_t{0}, [&] {
    check_counts(cell_, input_count, output_count);
    (void)outputs;
    Extents extents(kUnknown);
    for (int32_t i = 0; i < input_count; ++i) check_shape(cell_.op.inputs[i], inputs[i].max, extents);
    return cell_.workspace_size(extents);
  });
}

int32_t CellPlugin::onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t input_count,
                                  nvinfer1::PluginTensorDesc const* out, int32_t output_count) noexcept {
  ready_ = false;
  return guarded(cell_, kFailure, [&] {
    const auto get = [&](int32_t position) -> const nvinfer1::PluginTensorDesc& {
      return position < input_count ? in[position] : out[position - input_count];
    };
    call_.extents = check_tensors(cell_, input_count, output_count, get);
    for (int32_t position = 0; position < input_count + output_count; ++position) {
      const TensorSpec& spec =
          position < input_count ? cell_.op.inputs[position] : cell_.op.outputs[position - input_count];
      const nvinfer1::PluginTensorDesc& description = get(position);
      if (description.format != nvinfer1::TensorFormat::kLINEAR) {
        throw Refusal(std::string("tensor ") + spec.name + " is not in linear format");
      }
      const auto* const end = description.dims.d + description.dims.nbDims;
      if (std::any_of(description.dims.d, end, [](int64_t extent) { return extent < 0; })) {
        throw Refusal(std::string("tensor ") + spec.name + " has shape " + text(description.dims) +
                      ", every extent must be known by now");
      }
      if (spec.element == Element::kRecurrent) call_.recurrent_type = cell_type(description.type);
      if (spec.element == Element::kMemory) call_.memory_type = cell_type(description.type);
    }
    call_.type = cell_type(in[0].type);
    has_lengths_ = input_count == static_cast<int32_t>(cell_.op.inputs.size());
    ready_ = true;
    return kSuccess;
  });
}

int32_t CellPlugin::enqueue(nvinfer1::PluginTensorDesc const*, nvinfer1::PluginTensorDesc const*,
                            void const* const* inputs, void* const* outputs, void* workspace,
                            cudaStream_t stream) noexcept {
  return guarded(cell_, kFailure, [&] {
    if (!ready_) throw Refusal("enqueue without an accepted onShapeChange before it");
    Call call = call_;
    std::copy_n(inputs, cell_.op.inputs.size() - (has_lengths_ ? 0 : 1), call.inputs.begin());
    std::copy_n(outputs, cell_.op.outputs.size(), call.outputs.begin());
    const cudaError_t status = cell_.enqueue(call, workspace, stream);
    if (status != cudaSuccess) throw Refusal(std::string("kernel launch: ") + cudaGetErrorString(status));
    return kSuccess;
  });
}

nvinfer1::PluginFieldCollection const* CellPlugin::getFieldsToSerialize() noexcept {
  fields_[0] = {kFormatVersionField, &format_version_, PluginFieldType::kINT32, 1};
  const Table<Attribute>& attributes = cell_.op.attributes;
  for (size_t i = 0; i < attributes.size(); ++i) {
    fields_[i + 1] = {attributes[i].name, &call_.attributes[i], PluginFieldType::kFLOAT32, 1};
  }
  field_collection_ = {static_cast<int32_t>(attributes.size()) + 1, fields_.data()};
  return &field_collection_;
}

CellPluginCreator::CellPluginCreator(const Cell& cell) : cell_(cell) {
  const Table<Attribute>& attributes = cell.op.attributes;
  for (size_t i = 0; i < attributes.size(); ++i) {
    fields_[i] = {attributes[i].name, nullptr, PluginFieldType::kFLOAT32, 1};
  }
  field_collection_ = {static_cast<int32_t>(attributes.size()), fields_.data()};
}

nvinfer1::IPluginV3* CellPluginCreator::createPlugin(nvinfer1::AsciiChar const* name,
                                                     nvinfer1::PluginFieldCollection const* fields,
                                                     nvinfer1::TensorRTPhase phase) noexcept {
  return guarded<nvinfer1::IPluginV3*>(cell_, nullptr, [&] {
    try {
      return new CellPlugin(cell_, read_fields(cell_, fields, phase));
    } catch (const Refusal& problem) {
      throw Refusal(std::string(name && *name ? name : "unnamed node") + ": " + problem.what());
    }
  });
}

}  // namespace xlstm::tensorrt
