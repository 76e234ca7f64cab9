// One plugin class and one creator class for both operators; a Cell says which.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <string>

#include "tensorrt/cell.h"

// Versions this library was built with, as "key=value" separated by "; ".
extern "C" __attribute__((visibility("default"))) const char* xlstm_tensorrt_build_info() noexcept;

namespace xlstm::tensorrt {

// Of the fields an engine stores. Raise it when their meaning changes; an engine with another one must be rebuilt.
constexpr int32_t kFormatVersion = 1;
constexpr const char* kFormatVersionField = "format_version";

using AttributeValues = std::array<float, kMaxAttributes>;

class CellPlugin final : public nvinfer1::IPluginV3,
                         public nvinfer1::IPluginV3OneCore,
                         public nvinfer1::IPluginV3OneBuildV2,
                         public nvinfer1::IPluginV3OneRuntime {
 public:
  CellPlugin(const Cell& cell, const AttributeValues& attributes);

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // Core
  nvinfer1::AsciiChar const* getPluginName() const noexcept override { return cell_.op.name; }
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return kPluginVersion; }
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return kDomain; }

  // Build
  int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(cell_.op.outputs.size()); }
  int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t input_count,
                          nvinfer1::DynamicPluginTensorDesc const* out, int32_t output_count) noexcept override;
  bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* in_out, int32_t input_count,
                                 int32_t output_count) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t output_count,
                             nvinfer1::DataType const* input_types, int32_t input_count) const noexcept override;
  int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t input_count,
                          nvinfer1::DimsExprs const* shape_inputs, int32_t shape_input_count,
                          nvinfer1::DimsExprs* outputs, int32_t output_count,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t input_count,
                          nvinfer1::DynamicPluginTensorDesc const* outputs,
                          int32_t output_count) const noexcept override;
  // Nodes of the same types and shapes run the same kernels, whatever their attributes: one timing does for all of
  // them, as long as the kernels are of this build.
  nvinfer1::AsciiChar const* getTimingCacheID() noexcept override { return xlstm_tensorrt_build_info(); }
  // The kernels accept each state output in its input's buffer, but nothing is declared: declaring needs a preview
  // feature, and undeclared an application may still bind one buffer to both.
  int32_t getAliasedInput(int32_t) noexcept override { return -1; }

  // Runtime
  int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t input_count,
                        nvinfer1::PluginTensorDesc const* out, int32_t output_count) noexcept override;
  int32_t enqueue(nvinfer1::PluginTensorDesc const* input_descriptions,
                  nvinfer1::PluginTensorDesc const* output_descriptions, void const* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

 private:
  const Cell& cell_;
  Call call_;  // its attributes are set from the start, extents and types by onShapeChange
  bool has_lengths_ = false;
  bool ready_ = false;  // onShapeChange has accepted the shapes
  int32_t format_version_ = kFormatVersion;
  std::array<nvinfer1::PluginField, kMaxAttributes + 1> fields_;  // point into this object, made when asked for
  nvinfer1::PluginFieldCollection field_collection_;
};

class CellPluginCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit CellPluginCreator(const Cell& cell);

  // Null, after a message, for a field that is unknown, of a wrong type, length or value; at the runtime phase also for
  // a missing one, or another format version.
  nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const* name, nvinfer1::PluginFieldCollection const* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &field_collection_; }
  nvinfer1::AsciiChar const* getPluginName() const noexcept override { return cell_.op.name; }
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return kPluginVersion; }
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return kDomain; }

 private:
  const Cell& cell_;
  std::array<nvinfer1::PluginField, kMaxAttributes> fields_;
  nvinfer1::PluginFieldCollection field_collection_;
};

}  // namespace xlstm::tensorrt
