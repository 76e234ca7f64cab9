# Finds a CUDA compiler and enables the language. Order: CMAKE_CUDA_COMPILER or CUDACXX as given, nvcc on PATH or under
# /usr/local/cuda, then the pip packages nvidia-cuda-nvcc, nvidia-cuda-runtime, nvidia-cuda-crt, nvidia-nvvm and
# nvidia-cuda-cccl of the Python interpreter on PATH (or -DPython3_EXECUTABLE=...). It compiles for
# CMAKE_CUDA_ARCHITECTURES, or for those of a release that it knows.
include(XlstmArchitectures)

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(XLSTM_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
  if(NOT XLSTM_NVCC)
    find_package(Python3 COMPONENTS Interpreter)
    if(Python3_FOUND)
      execute_process(
        COMMAND "${Python3_EXECUTABLE}" -c "import nvidia; print(';'.join(nvidia.__path__))"
        OUTPUT_VARIABLE nvidia_packages OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
      find_program(XLSTM_NVCC nvcc PATHS ${nvidia_packages} PATH_SUFFIXES cu13/bin cuda_nvcc/bin NO_DEFAULT_PATH)
    endif()
  endif()
  if(NOT XLSTM_NVCC)
    message(FATAL_ERROR
      "No CUDA compiler found: not as CMAKE_CUDA_COMPILER, not on PATH, not under /usr/local/cuda, not among the pip "
      "packages of ${Python3_EXECUTABLE}. Install the CUDA that this machine's driver is for, or run 'pip install "
      "nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-crt nvidia-nvvm nvidia-cuda-cccl' (CUDA 13), or configure with "
      "-DXLSTM_CUDA=OFF.")
  endif()
  set(CMAKE_CUDA_COMPILER "${XLSTM_NVCC}" CACHE FILEPATH "CUDA compiler" FORCE)
endif()

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(nvcc "${CMAKE_CUDA_COMPILER}")
  if(NOT nvcc)
    set(nvcc "$ENV{CUDACXX}")
  endif()
  xlstm_release_architectures("${nvcc}" CMAKE_CUDA_ARCHITECTURES)
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

message(STATUS "CUDA compiler: ${CMAKE_CUDA_COMPILER} (${CMAKE_CUDA_COMPILER_VERSION}), "
  "architectures: ${CMAKE_CUDA_ARCHITECTURES}")
