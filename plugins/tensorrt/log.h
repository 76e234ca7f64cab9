// Messages to the logger of the TensorRT that loaded this library; to standard error where it gave none.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace xlstm::tensorrt {

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Never throws: an out-of-memory while the message is made is swallowed.
void log_error(const std::string& message) noexcept;

}  // namespace xlstm::tensorrt
