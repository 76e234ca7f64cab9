// What the runtime's tests need of a test framework.
#pragma once

#include <xlstm/xlstm.hpp>

#include <cstdio>
#include <cstdlib>
#include <string>

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (false)

// `body` throws an xlstm::Error of this code whose message holds `part`.
template <class Body>
void check_error(xlstm::ErrorCode code, const std::string& part, Body&& body) {
  try {
    body();
  } catch (const xlstm::Error& error) {
    if (error.code() == code && std::string(error.what()).find(part) != std::string::npos) return;
    std::fprintf(stderr, "expected error %d with \"%s\", got %d: %s\n", static_cast<int>(code), part.c_str(),
                 static_cast<int>(error.code()), error.what());
    std::exit(1);
  }
  std::fprintf(stderr, "expected an error with \"%s\", got none\n", part.c_str());
  std::exit(1);
}

// The bundle to test on, of a small model with a vocabulary and a dynamic batch. Without one, or without ONNX Runtime,
// the test counts as skipped.
inline std::string test_bundle() {
  const char* bundle = std::getenv("XLSTM_TEST_BUNDLE");
  if (!bundle || !std::getenv("XLSTM_ONNXRUNTIME")) {
    std::puts("skipped: set XLSTM_TEST_BUNDLE to a small float32 bundle and XLSTM_ONNXRUNTIME to libonnxruntime.so");
    std::exit(77);
  }
  return bundle;
}

inline xlstm::Options test_options() {
  xlstm::Options options;
  options.device = xlstm::Device::cpu;
  options.threads = 1;
  return options;
}
