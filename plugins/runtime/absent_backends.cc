// Stand-ins for the back ends that this build leaves out.
#include "runtime/backend.h"

namespace xlstm::internal {

#ifndef XLSTM_HAS_ONNXRUNTIME
std::unique_ptr<LoadedBundle> load_onnxruntime(const std::filesystem::path&, const Manifest&, const Options&) {
  throw Error(ErrorCode::unavailable,
              "This libxlstm_runtime was built without ONNX Runtime. Configure it with "
              "-DXLSTM_ONNXRUNTIME_INCLUDE_DIR=<ONNX Runtime's headers>.");
}
#endif

#ifndef XLSTM_HAS_TENSORRT
std::unique_ptr<LoadedBundle> load_tensorrt(const std::filesystem::path&, const Manifest&, const Options&) {
  throw Error(ErrorCode::unavailable,
              "This libxlstm_runtime was built without TensorRT. Configure it with "
              "-DTensorRT_INCLUDE_DIR=<TensorRT's headers> -DXLSTM_CUDA_INCLUDE_DIR=<CUDA's headers>.");
}
#endif

}  // namespace xlstm::internal
