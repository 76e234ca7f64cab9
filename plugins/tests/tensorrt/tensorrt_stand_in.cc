// A library in TensorRT's place: what hands over a logger and says of which major version it is.
#include <NvInferRuntime.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

nvinfer1::ILogger* logger = nullptr;
int32_t major = NV_TENSORRT_MAJOR;

class Finder final : public nvinfer1::ILoggerFinder {
 public:
  nvinfer1::ILogger* findLogger() override { return logger; }
};

}  // namespace

EXPORT int32_t getInferLibMajorVersion() { return major; }

EXPORT nvinfer1::ILoggerFinder* stand_in_finder(nvinfer1::ILogger* of, int32_t version) {
  static Finder finder;
  logger = of;
  major = version;
  return &finder;
}
