// What tensorrt_backend.cc uses of TensorRT, to compile and run it where there is no GPU. stand_in.cc implements it.
#pragma once

#include <cstddef>
#include <cstdint>

#define NV_TENSORRT_MAJOR 11
#define NV_TENSORRT_VERSION 110000

struct CUstream_st;

namespace nvinfer1 {

struct Dims {
  static constexpr std::int32_t MAX_DIMS = 8;
  std::int32_t nbDims;
  std::int64_t d[MAX_DIMS];
};

enum class DataType : std::int32_t { kFLOAT, kHALF, kINT32, kINT64, kBF16 };
enum class TensorIOMode : std::int32_t { kNONE, kINPUT, kOUTPUT };
enum class OptProfileSelector : std::int32_t { kMIN, kOPT, kMAX };
enum class ExecutionContextAllocationStrategy : std::int32_t { kSTATIC, kON_PROFILE_CHANGE };

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR, kERROR, kWARNING };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

struct IPluginRegistry {
  virtual ~IPluginRegistry() = default;
  virtual void* getCreator(const char* name, const char* version, const char* plugin_namespace) noexcept = 0;
  virtual void* loadLibrary(const char* path) noexcept = 0;
};

struct IExecutionContext {
  virtual ~IExecutionContext() = default;
  virtual bool setOptimizationProfileAsync(std::int32_t index, CUstream_st* stream) noexcept = 0;
  virtual bool setInputShape(const char* name, const Dims& dims) noexcept = 0;
  virtual bool setTensorAddress(const char* name, void* address) noexcept = 0;
  virtual bool enqueueV3(CUstream_st* stream) noexcept = 0;
};

struct ICudaEngine {
  virtual ~ICudaEngine() = default;
  virtual TensorIOMode getTensorIOMode(const char* name) const noexcept = 0;
  virtual DataType getTensorDataType(const char* name) const noexcept = 0;
  virtual std::int32_t getNbOptimizationProfiles() const noexcept = 0;
  virtual Dims getProfileShape(const char* name, std::int32_t profile, OptProfileSelector bound) const noexcept = 0;
  virtual IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept = 0;
};

struct IRuntime {
  virtual ~IRuntime() = default;
  virtual void setEngineHostCodeAllowed(bool allowed) noexcept = 0;
  virtual IPluginRegistry& getPluginRegistry() const noexcept = 0;
  virtual ICudaEngine* deserializeCudaEngine(const void* bytes, std::size_t size) noexcept = 0;
};

}  // namespace nvinfer1
