// Calls of the TensorRT plugin behind a C interface, as launchers.cc has the launchers.
#include "plugin_launcher.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using Call = std::function<cudaError_t(cudaStream_t)>;

// What xlstm_call_plugin takes; never freed.
EXPORT void* xlstm_plugin_of_mlstm(const xlstm::MlstmArgs* args) { return new Call(through_plugin(*args)); }

EXPORT void* xlstm_plugin_of_slstm(const xlstm::SlstmArgs* args, void* workspace) {
  return new Call(through_plugin(*args, workspace));
}

EXPORT int xlstm_call_plugin(const void* call, void* stream) {
  return (*static_cast<const Call*>(call))(static_cast<cudaStream_t>(stream));
}
