# Finds the TensorRT headers; nothing of TensorRT is linked. Order: TensorRT_INCLUDE_DIR as given, TensorRT_ROOT (CMake
# variable or environment), the system's folders and those beside CUDA, where scripts/fetch_tensorrt_headers.py puts them.
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h
  HINTS ${TensorRT_ROOT} ENV TensorRT_ROOT ENV TENSORRT_ROOT
  PATHS /usr/local/tensorrt /usr/src/tensorrt /usr/local/cuda
    "$ENV{XDG_CACHE_HOME}/xlstm-export/include/tensorrt" "$ENV{HOME}/.cache/xlstm-export/include/tensorrt"
  PATH_SUFFIXES include
  DOC "TensorRT headers, 10.3 or newer")
if(NOT TensorRT_INCLUDE_DIR)
  message(FATAL_ERROR
    "The TensorRT headers (NvInferRuntime.h) were not found. Install TensorRT's development package, pass "
    "-DTensorRT_ROOT=<its folder>, or run scripts/fetch_tensorrt_headers.py; or configure with -DXLSTM_TENSORRT=OFF.")
endif()

# NvInferVersion.h defines NV_TENSORRT_MAJOR either as a number or through TRT_MAJOR_ENTERPRISE.
file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" lines REGEX "^#define (NV_TENSORRT|TRT)_(MAJOR|MINOR)")
foreach(part MAJOR MINOR)
  if(NOT "${lines}" MATCHES "_${part}(_ENTERPRISE)? ([0-9]+)")
    message(FATAL_ERROR "${TensorRT_INCLUDE_DIR}/NvInferVersion.h names no version")
  endif()
  set(${part} "${CMAKE_MATCH_2}")
endforeach()
set(XLSTM_TENSORRT_VERSION "${MAJOR}.${MINOR}")
if(XLSTM_TENSORRT_VERSION VERSION_LESS 10.3)
  message(FATAL_ERROR
    "The headers in ${TensorRT_INCLUDE_DIR} are TensorRT ${XLSTM_TENSORRT_VERSION}; the plugin needs 10.3 or newer.")
endif()
message(STATUS "TensorRT headers: ${TensorRT_INCLUDE_DIR} (${XLSTM_TENSORRT_VERSION})")

add_library(xlstm_tensorrt_headers INTERFACE)
target_include_directories(xlstm_tensorrt_headers SYSTEM INTERFACE "${TensorRT_INCLUDE_DIR}")
