// The library's C interface, the only symbols it exports. TensorRT loads it with IPluginRegistry::loadLibrary(path),
// which calls setLoggerFinder and getCreators. Nothing registers itself when the library is merely opened: for hosts
// that do no more than that there is libxlstm_tensorrt_onload.so.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <array>
#include <string>

#include "tensorrt/cell_plugin.h"
#include "tensorrt/log.h"

#define XLSTM_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace xlstm::tensorrt;

const std::array<nvinfer1::IPluginCreatorInterface*, 2>& creators() {
  static CellPluginCreator mlstm(kMlstmCell), slstm(kSlstmCell);
  static const std::array<nvinfer1::IPluginCreatorInterface*, 2> all{&mlstm, &slstm};
  return all;
}

// The registry of the TensorRT in this process. A host that opened it for itself alone (RTLD_LOCAL, as Triton opens its
// back ends) has it under the name of its file only.
nvinfer1::IPluginRegistry* registry_here() {
  using GetRegistry = nvinfer1::IPluginRegistry* (*)();
  void* symbol = dlsym(RTLD_DEFAULT, "getPluginRegistry");
  for (const char* name : {"libnvinfer", "libnvinfer_lean", "libnvinfer_dispatch"}) {
    if (symbol) break;
    const std::string file = std::string(name) + ".so." + std::to_string(NV_TENSORRT_MAJOR);
    if (void* tensorrt = dlopen(file.c_str(), RTLD_NOW | RTLD_NOLOAD)) symbol = dlsym(tensorrt, "getPluginRegistry");
  }
  const auto get_registry = reinterpret_cast<GetRegistry>(symbol);
  return get_registry ? get_registry() : nullptr;
}

}  // namespace

XLSTM_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  count = static_cast<int32_t>(creators().size());
  return creators().data();
}

XLSTM_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { set_logger_finder(finder); }

// For applications that open or link this library themselves instead of calling loadLibrary: registers the creators
// with `registry`, or with getPluginRegistry() of the TensorRT in the process if it is null. May be called again.
// Returns 0, or -1 after a message: no registry, or a TensorRT of another major version than the headers this was built
// with (the registry's own interface differs between majors; loadLibrary does not depend on it).
XLSTM_EXPORT int32_t xlstm_tensorrt_register(nvinfer1::IPluginRegistry* registry) noexcept {
  if (registry == nullptr) registry = registry_here();
  if (registry == nullptr) {
    log_error("xlstm: no plugin registry of TensorRT " + std::to_string(NV_TENSORRT_MAJOR) +
              " in this process: load that first, or pass its registry");
    return -1;
  }
  const int32_t major = tensorrt_major_of(registry);
  if (major != 0 && major != NV_TENSORRT_MAJOR) {
    log_error("xlstm: this library was built for TensorRT " + std::to_string(NV_TENSORRT_MAJOR) +
              ", the registry is of version " + std::to_string(major) +
              ": load it with IPluginRegistry::loadLibrary, or rebuild it");
    return -1;
  }
  for (nvinfer1::IPluginCreatorInterface* creator : creators()) {
    const auto& named = static_cast<const nvinfer1::IPluginCreatorV3One&>(*creator);
    if (registry->getCreator(named.getPluginName(), xlstm::kPluginVersion, xlstm::kDomain)) continue;
    if (!registry->registerCreator(*creator, xlstm::kDomain)) {
      log_error(std::string("xlstm: the registry refused ") + named.getPluginName());
      return -1;
    }
  }
  return 0;
}

XLSTM_EXPORT const char* xlstm_tensorrt_build_info() noexcept {
#define XLSTM_TEXT_(x) #x
#define XLSTM_TEXT(x) XLSTM_TEXT_(x)
  return "xlstm=" XLSTM_PROJECT_VERSION "; tensorrt_headers=" XLSTM_TEXT(NV_TENSORRT_MAJOR) "." XLSTM_TEXT(
      NV_TENSORRT_MINOR) "." XLSTM_TEXT(NV_TENSORRT_PATCH) "; cuda=" XLSTM_CUDA_VERSION
                                                           "; architectures=" XLSTM_ARCHITECTURES;
}
