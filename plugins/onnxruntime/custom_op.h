// What our custom operators share.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "cells/cells.h"
#include "cells/contract.h"

namespace xlstm::ort {

constexpr uint32_t kOldestApi = 18;  // the first with outputs that may reuse an input's buffer
constexpr uint32_t kCustomOpApi = ORT_API_VERSION < kOldestApi ? kOldestApi : ORT_API_VERSION;  // of CustomOp

#if ORT_API_VERSION < 18
// The headers may be a version older than that: it appended these members, which ONNX Runtime reads where `version`
// says that they are there.
struct CustomOp : OrtCustomOp {
  size_t(ORT_API_CALL* GetMayInplace)(int** inputs, int** outputs);
  void(ORT_API_CALL* ReleaseMayInplace)(int* inputs, int* outputs);
  size_t(ORT_API_CALL* GetAliasMap)(int** inputs, int** outputs);
  void(ORT_API_CALL* ReleaseAliasMap)(int* inputs, int* outputs);
};
#else
using CustomOp = OrtCustomOp;
#endif

// An operator of this domain and version, with what all answer alike: required inputs and outputs, none of them
// variadic, in the device's own memory.
class Operation : public CustomOp {
 protected:
  // api_version: of the ONNX Runtime that loads the library.
  explicit Operation(uint32_t api_version) : CustomOp{} {
    OrtCustomOp::version = api_version;
    GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetStartVersion = [](const OrtCustomOp*) { return kVersion; };
    GetEndVersion = [](const OrtCustomOp*) { return kVersion; };
  }
};

// Gives a tensor's shape where it lies, from this version on; before, ONNX Runtime makes a copy of it with several
// allocations. The headers may be older: their table of functions ends before this one, whose place is fixed as that of
// all is.
constexpr uint32_t kShapeReferenceApi = 24;
constexpr size_t kShapeReferencePlace = 414;
#if ORT_API_VERSION >= 24
static_assert(offsetof(OrtApi, GetTensorElementTypeAndShapeDataReference) == kShapeReferencePlace * sizeof(void*));
#endif
using ShapeReference = OrtStatus*(ORT_API_CALL*)(const OrtValue* tensor, ONNXTensorElementDataType* type,
                                                 const int64_t** extents, size_t* rank);
inline ShapeReference shape_reference = nullptr;  // set when the library is registered; null: there is none

// The shape of a tensor, in no memory of its own: kernels ask for every input's at every call, and for a small model
// that is much of what a step takes.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) {
    for (const int64_t extent : extents) push_back(extent);
  }
  explicit Shape(const Ort::ConstValue& tensor) {
    if (shape_reference) {
      ONNXTensorElementDataType type;
      const int64_t* extents = nullptr;
      Ort::ThrowOnError(shape_reference(tensor, &type, &extents, &rank_));
      refuse_more_axes();
      std::copy(extents, extents + rank_, extents_.data());
    } else {
      const Ort::TensorTypeAndShapeInfo info = tensor.GetTensorTypeAndShapeInfo();
      rank_ = info.GetDimensionsCount();
      refuse_more_axes();
      Ort::ThrowOnError(Ort::GetApi().GetDimensions(info, extents_.data(), rank_));
    }
  }

  size_t size() const { return rank_; }
  bool empty() const { return rank_ == 0; }
  const int64_t* data() const { return extents_.data(); }
  const int64_t* begin() const { return data(); }
  const int64_t* end() const { return data() + rank_; }
  int64_t operator[](size_t axis) const { return extents_[axis]; }
  int64_t& back() { return extents_[rank_ - 1]; }
  void push_back(int64_t extent) { extents_.at(rank_++) = extent; }
  bool operator==(const Shape& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }
  bool operator!=(const Shape& other) const { return !(*this == other); }

 private:
  void refuse_more_axes() const {
    if (rank_ > kMost) throw Ort::Exception("a tensor has more than 8 axes", ORT_INVALID_ARGUMENT);
  }

  static constexpr size_t kMost = 8;
  size_t rank_ = 0;
  std::array<int64_t, kMost> extents_{};
};

inline void* output(const Ort::KernelContext& context, size_t index, const Shape& shape) {
  return context.GetOutput(index, shape.data(), shape.size()).GetTensorMutableRawData();
}

// A node by its name, for what its kernel refuses.
class Node {
 public:
  Node(const std::string& op, const OrtKernelInfo* info)
      : name_(op + " '" + Ort::ConstKernelInfo(info).GetNodeName() + "'") {}

  [[noreturn]] void refuse(const std::string& reason, OrtErrorCode code = ORT_INVALID_ARGUMENT) const {
    throw Ort::Exception(name_ + ": " + reason, code);
  }

  // An input that is known before anything runs; where it is not, the kernel is refused for this reason.
  Ort::ConstValue constant(const OrtKernelInfo* info, size_t index, const char* reason) const {
    int is_constant = 0;
    Ort::ConstValue value = Ort::ConstKernelInfo(info).GetTensorConstantInput(index, &is_constant);
    if (!is_constant) refuse(reason);
    return value;
  }

 private:
  std::string name_;
};

inline DataType data_type(ONNXTensorElementDataType type) {
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) return DataType::kFloat16;
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16) return DataType::kBFloat16;
  return DataType::kFloat32;
}

// Nothing may be thrown into ONNX Runtime.
template <class Function>
OrtStatusPtr guarded(const Function& function) noexcept {
  try {
    function();
    return nullptr;
  } catch (const Ort::Exception& error) {
    return Ort::GetApi().CreateStatus(error.GetOrtErrorCode(), error.what());
  } catch (const std::exception& error) {
    return Ort::GetApi().CreateStatus(ORT_FAIL, error.what());
  }
}

// In shape inference. Extents may be unknown (-1); names say which are the same.
inline void set_output_shape(OrtShapeInferContext* context, size_t index, ONNXTensorElementDataType type,
                             const std::vector<int64_t>& extents, std::vector<const char*> names) {
  const OrtApi& api = Ort::GetApi();
  OrtTensorTypeAndShapeInfo* raw_info = nullptr;
  Ort::ThrowOnError(api.CreateTensorTypeAndShapeInfo(&raw_info));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api.ReleaseTensorTypeAndShapeInfo)> info(
      raw_info, api.ReleaseTensorTypeAndShapeInfo);
  Ort::ThrowOnError(api.SetTensorElementType(info.get(), type));
  Ort::ThrowOnError(api.SetDimensions(info.get(), extents.data(), extents.size()));
  Ort::ThrowOnError(api.SetSymbolicDimensions(info.get(), names.data(), names.size()));
  Ort::ThrowOnError(api.ShapeInferContext_SetOutputTypeShape(context, index, info.get()));
}

// In shape inference of a product: the shape of input 0, x, with an extent of input 1, a matrix, at its end.
inline void set_product_shape(OrtShapeInferContext* context, size_t matrix_axis) {
  const OrtApi& api = Ort::GetApi();
  OrtTensorTypeAndShapeInfo *x = nullptr, *matrix = nullptr;  // stay the context's
  Ort::ThrowOnError(api.ShapeInferContext_GetInputTypeShape(context, 0, &x));
  Ort::ThrowOnError(api.ShapeInferContext_GetInputTypeShape(context, 1, &matrix));
  size_t rank = 0, matrix_rank = 0;
  ONNXTensorElementDataType type{};
  Ort::ThrowOnError(api.GetDimensionsCount(x, &rank));
  Ort::ThrowOnError(api.GetDimensionsCount(matrix, &matrix_rank));
  Ort::ThrowOnError(api.GetTensorElementType(x, &type));
  if (!rank || matrix_rank != 2) return;
  std::vector<int64_t> extents(rank), matrix_extents(matrix_rank);
  std::vector<const char*> names(rank), matrix_names(matrix_rank);
  Ort::ThrowOnError(api.GetDimensions(x, extents.data(), rank));
  Ort::ThrowOnError(api.GetDimensions(matrix, matrix_extents.data(), matrix_rank));
  Ort::ThrowOnError(api.GetSymbolicDimensions(x, names.data(), rank));
  Ort::ThrowOnError(api.GetSymbolicDimensions(matrix, matrix_names.data(), matrix_rank));
  extents.back() = matrix_extents[matrix_axis];
  names.back() = matrix_names[matrix_axis];
  set_output_shape(context, 0, type, extents, names);
}

}  // namespace xlstm::ort
