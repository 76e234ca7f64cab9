// Messages to the logger of the TensorRT that loaded this library; to standard error where it gave none.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace xlstm::tensorrt {

// The major version of the TensorRT library that an object with virtual functions comes from; 0 if that library does
// not say. TensorRT 11 changed the layout of ILoggerFinder, ILogger and IPluginRegistry, so a library that was compiled
// for another major version must not call them. (Creators and plugins, which TensorRT calls, are the same in both.)
int32_t tensorrt_major_of(const void* object) noexcept;

// Keeps the finder, if it is one this library was compiled for.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

void log_error(const std::string& message) noexcept;

}  // namespace xlstm::tensorrt
