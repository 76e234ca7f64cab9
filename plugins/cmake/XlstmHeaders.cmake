# The headers of others, each set searched for once: first where its cache variable says, then where an environment
# variable says, then in the system's folders. Nothing of them is linked. What is found becomes a target,
# xlstm_<name>_headers.
#
# `xlstm-export plugins build` takes them from pip packages where a machine has none; to do the same by hand, pass
# -D<variable>=$(python -m xlstm_export.native.toolchain <name>).

# xlstm_find_headers(<name> <variable> <file> <description> [HINTS ...] [PATHS ...] [PATH_SUFFIXES ...])
function(xlstm_find_headers name variable file description)
  cmake_parse_arguments(PARSE_ARGV 4 search "" "" "HINTS;PATHS;PATH_SUFFIXES")
  find_path(${variable} ${file}
    HINTS ${search_HINTS} PATHS ${search_PATHS} PATH_SUFFIXES include ${search_PATH_SUFFIXES} DOC "${description}")
  if(${variable})
    add_library(xlstm_${name}_headers INTERFACE IMPORTED GLOBAL)
    target_include_directories(xlstm_${name}_headers SYSTEM INTERFACE "${${variable}}")
  endif()
  set_property(GLOBAL PROPERTY xlstm_${name}_missing
    "${description} (${file}) were not found. Install them and pass -D${variable}=<their folder>, or pass the folder "
    "that `python -m xlstm_export.native.toolchain ${name}` prints")
endfunction()

# Ends the configuration where a set is missing. `otherwise`: the option that does without.
function(xlstm_require_headers name otherwise)
  if(NOT TARGET xlstm_${name}_headers)
    get_property(missing GLOBAL PROPERTY xlstm_${name}_missing)
    list(JOIN missing "" missing)
    message(FATAL_ERROR "${missing}; or do without: ${otherwise}.")
  endif()
endfunction()

xlstm_find_headers(json XLSTM_JSON_INCLUDE_DIR nlohmann/json.hpp "The headers of nlohmann-json 3")
xlstm_find_headers(highway XLSTM_HIGHWAY_INCLUDE_DIR hwy/highway.h "Google Highway's headers")
xlstm_find_headers(onnxruntime XLSTM_ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h "ONNX Runtime's headers"
  HINTS ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES include/onnxruntime include/onnxruntime/core/session onnxruntime onnxruntime/core/session)
xlstm_find_headers(cuda XLSTM_CUDA_INCLUDE_DIR cuda_runtime_api.h "CUDA's headers"
  HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} ENV CUDA_HOME ENV CUDA_PATH
  PATHS /usr/local/cuda)
xlstm_find_headers(tensorrt TensorRT_INCLUDE_DIR NvInferRuntime.h "TensorRT's headers"
  HINTS ${TensorRT_ROOT} ENV TensorRT_ROOT ENV TENSORRT_ROOT
  PATHS /usr/local/tensorrt /usr/src/tensorrt /usr/local/cuda)

if(XLSTM_CUDA)  # the search path of nvcc has several folders; some are not there where it cross-compiles
  foreach(folder IN LISTS CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES)
    if(IS_DIRECTORY "${folder}")
      set_property(TARGET xlstm_cuda_headers APPEND PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${folder}")
    endif()
  endforeach()
endif()

if(TARGET xlstm_tensorrt_headers)
  # NvInferVersion.h defines NV_TENSORRT_MAJOR either as a number or through TRT_MAJOR_ENTERPRISE.
  file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" lines REGEX "^#define (NV_TENSORRT|TRT)_(MAJOR|MINOR)")
  foreach(part MAJOR MINOR)
    if(NOT "${lines}" MATCHES "_${part}(_ENTERPRISE)? ([0-9]+)")
      message(FATAL_ERROR "${TensorRT_INCLUDE_DIR}/NvInferVersion.h names no version.")
    endif()
    set(${part} "${CMAKE_MATCH_2}")
  endforeach()
  if("${MAJOR}.${MINOR}" VERSION_LESS 10.3)
    message(FATAL_ERROR
      "The headers in ${TensorRT_INCLUDE_DIR} are of TensorRT ${MAJOR}.${MINOR}; 10.3 or newer is needed.")
  endif()
  message(STATUS "TensorRT's headers: ${TensorRT_INCLUDE_DIR} (${MAJOR}.${MINOR})")
endif()
