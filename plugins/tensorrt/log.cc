#include "tensorrt/log.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>

namespace xlstm::tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

int32_t tensorrt_major_of(const void* object) noexcept {
  const void* const virtual_table = *static_cast<const void* const*>(object);
  Dl_info info{};
  if (!dladdr(virtual_table, &info) || !info.dli_fname) return 0;
  void* const library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return 0;
  const auto version = reinterpret_cast<int32_t (*)()>(dlsym(library, "getInferLibMajorVersion"));
  const int32_t major = version ? version() : 0;
  dlclose(library);
  return major;
}

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept {
  const int32_t major = finder ? tensorrt_major_of(finder) : 0;
  logger_finder = major == NV_TENSORRT_MAJOR ? finder : nullptr;
}

void log_error(const std::string& message) noexcept {
  nvinfer1::ILoggerFinder* const finder = logger_finder;
  nvinfer1::ILogger* const logger = finder ? finder->findLogger() : nullptr;
  if (logger) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
  } else {
    std::fprintf(stderr, "%s\n", message.c_str());
  }
}

}  // namespace xlstm::tensorrt
