// Stand-ins for the back ends that this build leaves out.
#include "backend.h"

namespace xlstm::internal {

#ifndef XLSTM_HAS_ONNXRUNTIME
std::unique_ptr<Engine> load_onnxruntime(const std::filesystem::path&, const Manifest&, const Options&) {
  throw Error(ErrorCode::unavailable,
              "this libxlstm_runtime was built without ONNX Runtime: configure it with "
              "-DXLSTM_ONNXRUNTIME_INCLUDE_DIR=<ONNX Runtime's headers>.");
}
#endif

#ifndef XLSTM_HAS_TENSORRT
std::unique_ptr<Engine> load_tensorrt(const std::filesystem::path&, const Manifest&, const Options&) {
  throw Error(ErrorCode::unavailable,
              "this libxlstm_runtime was built without TensorRT: configure it with "
              "-DXLSTM_TENSORRT_INCLUDE_DIR=<TensorRT's headers> and CUDA's headers at hand.");
}
#endif

}  // namespace xlstm::internal
