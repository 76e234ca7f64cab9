// libxlstm_tensorrt_onload.so: opening it registers the plugins. For hosts that open a library and call nothing in it,
// as Triton's TensorRT back end does with `--backend-config=tensorrt,plugins=...` (TRITONBACKEND_Initialize in its
// tensorrt.cc, OpenLibraryHandle in its shared_library.cc). A failure has been logged; the host then finds no plugin.
#include <cstdint>

namespace nvinfer1 {
class IPluginRegistry;
}

extern "C" int32_t xlstm_tensorrt_register(nvinfer1::IPluginRegistry* registry) noexcept;

namespace {
[[maybe_unused]] const int32_t registered = xlstm_tensorrt_register(nullptr);
}
