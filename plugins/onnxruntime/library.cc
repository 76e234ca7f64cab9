// libxlstm_onnxruntime.so: what ONNX Runtime calls when the library is registered with a session's options.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include "cells/cpu/quantized_product.h"
#include "onnxruntime/cell_operator.h"
#include "onnxruntime/linear_operator.h"
#include "onnxruntime/product_operator.h"

namespace xlstm::ort {
namespace {

// The library is compiled against one version of the API and runs on older and newer ones: API version N is that of
// ONNX Runtime 1.N.
uint32_t runtime_api(const OrtApiBase* base) {
  const std::string version = base->GetVersionString();
  const size_t dot = version.find('.');
  return dot == std::string::npos ? 0 : static_cast<uint32_t>(std::atoi(version.c_str() + dot + 1));
}

ShapeReference find_shape_reference(const OrtApiBase* base, uint32_t available) {
  if (available < kShapeReferenceApi) return nullptr;
  const OrtApi* const api = base->GetApi(kShapeReferenceApi);
  return api ? reinterpret_cast<const ShapeReference*>(api)[kShapeReferencePlace] : nullptr;
}

// A session's entry that says whether what stands around the cells runs in our kernels too ("1") or in its definitions
// ("0"). They exist for the CPU alone; beside CUDA they would take every activation back and forth.
constexpr const char* kLayersEntry = "ai.xlstm.layers";
#if defined(XLSTM_HAS_CUDA)
constexpr bool kLayersByDefault = false;
#else
constexpr bool kLayersByDefault = true;
#endif

// ONNX Runtime's own: "1" where products with quantised weights shall not round their inputs. Ours do.
constexpr const char* kAccuracyEntry = "session.qdq_matmulnbits_accuracy_level";

// An entry of the session's options; `otherwise` where there is none.
std::string entry(const OrtApi& api, const OrtSessionOptions* options, const char* name, const char* otherwise) {
  int given = 0;
  Ort::ThrowOnError(api.HasSessionConfigEntry(options, name, &given));
  if (!given) return otherwise;
  char value[8] = {};
  size_t size = sizeof value;
  Ort::ThrowOnError(api.GetSessionConfigEntry(options, name, value, &size));
  return value;
}

enum class Operators { kCells, kLayers, kLayersAndProducts };

Operators wanted(const OrtApi& api, const OrtSessionOptions* options) {
  if (entry(api, options, kLayersEntry, kLayersByDefault ? "1" : "0") == "0") return Operators::kCells;
  const bool rounds = entry(api, options, kAccuracyEntry, "4") == "4";
  return rounds && cpu::has_quantized_product() ? Operators::kLayersAndProducts : Operators::kLayers;
}

OrtCustomOpDomain* make_domain(uint32_t api_version, Operators operators) {
  OrtCustomOpDomain* domain = nullptr;
  Ort::ThrowOnError(Ort::GetApi().CreateCustomOpDomain(kDomain, &domain));
  constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  const auto kinds = {kFloat, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16};
  const auto add = [&](const Cell& cell, Types types, const Device& device) {
    // Never freed: sessions refer to their operators until the very end of the process.
    auto* op = new CellOperator(cell, types, device, api_version);
    Ort::ThrowOnError(Ort::GetApi().CustomOpDomain_Add(domain, op));
  };
  std::vector<const Device*> devices{&kCpu};
#if defined(XLSTM_HAS_CUDA)
  devices.push_back(&kCuda);
#endif
  for (const Device* device : devices) {
    for (const auto type : kinds) {
      for (const auto memory : kinds) add(kMlstmCell, {type, type, memory}, *device);
      add(kSlstmCell, {type, type, kFloat}, *device);
      if (type != kFloat) add(kSlstmCell, {type, kFloat, kFloat}, *device);
    }
  }
  if (operators == Operators::kCells) return domain;
  for (const Cell* cell : {&kCausalConvLayer, &kValidTokensLayer, &kLastPositionsLayer}) {
    add(*cell, {kFloat, kFloat, kFloat}, kCpu);
  }
  for (const auto type : kinds) {
    for (const bool bias : {false, true}) {
      Ort::ThrowOnError(Ort::GetApi().CustomOpDomain_Add(domain, new LinearOperator(type, bias, api_version)));
    }
    for (const Cell* cell : {&kMlstmProjectionsLayer, &kSlstmProjectionsLayer, &kMlstmHeadsLayer, &kHeadNormLayer,
                             &kGatedHeadNormLayer, &kSkipGatedHeadNormLayer, &kAddLayerNormLayer, &kAddRmsNormLayer,
                             &kGegluLayer, &kSwigluLayer, &kSoftCapLayer}) {
      add(*cell, {type, type, kFloat}, kCpu);
    }
  }
  if (operators == Operators::kLayers) return domain;
  for (const ProductOperator::Types types : product_types()) {
    Ort::ThrowOnError(Ort::GetApi().CustomOpDomain_Add(domain, new ProductOperator(types, api_version)));
  }
  return domain;
}

// Each is made once, and never freed. Nothing in this library has a destructor to run at exit: it may be unmapped then.
OrtCustomOpDomain* domain(Operators operators, uint32_t api_version) {
  static std::mutex mutex;
  static OrtCustomOpDomain* domains[3];
  const std::lock_guard<std::mutex> lock(mutex);
  OrtCustomOpDomain*& made = domains[static_cast<size_t>(operators)];
  if (!made) made = make_domain(api_version, operators);
  return made;
}

}  // namespace
}  // namespace xlstm::ort

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL
RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) noexcept {
  const uint32_t available = xlstm::ort::runtime_api(base);
  if (available < xlstm::ort::kOldestApi) {
    const std::string message =
        "libxlstm_onnxruntime needs ONNX Runtime 1.18 or newer, this is " + std::string(base->GetVersionString());
    return base->GetApi(1)->CreateStatus(ORT_NOT_IMPLEMENTED, message.c_str());
  }
  const OrtApi* api = base->GetApi(std::min<uint32_t>(available, ORT_API_VERSION));
  try {
    Ort::InitApi(api);
    xlstm::ort::shape_reference = xlstm::ort::find_shape_reference(base, available);
    const uint32_t version = std::min(available, xlstm::ort::kCustomOpApi);
    return api->AddCustomOpDomain(options, xlstm::ort::domain(xlstm::ort::wanted(*api, options), version));
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  }
}

extern "C" __attribute__((visibility("default"))) const char* xlstm_onnxruntime_build_info() noexcept {
#define XLSTM_TEXT_(x) #x
#define XLSTM_TEXT(x) XLSTM_TEXT_(x)
#if defined(XLSTM_HAS_CUDA)
#define XLSTM_CUDA_INFO "; cuda=" XLSTM_CUDA_VERSION
#else
#define XLSTM_CUDA_INFO ""
#endif
  return "xlstm=" XLSTM_PROJECT_VERSION "; onnxruntime_headers=1." XLSTM_TEXT(ORT_API_VERSION) XLSTM_CUDA_INFO;
}
