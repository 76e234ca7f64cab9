# Toolchain file: cross-compile for 64-bit ARM Linux (Jetson, Grace) with Debian's g++-aarch64-linux-gnu.
#
# With CUDA, XLSTM_CUDA_AARCH64 names a folder with include/, and in lib/ the CUDA runtime. The headers are the same for
# every processor; the library for aarch64 comes in the wheel nvidia-cuda-runtime of that platform. The compiler, nvcc or
# clang, is that of the build machine. scripts/cross_build_aarch64.py does all of it.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
# Highway, ONNX Runtime and TensorRT headers are the same for every processor: the build machine's own will do.
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)

set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")  # of nvcc
set(CMAKE_CUDA_COMPILER_TARGET aarch64-linux-gnu)      # of clang
if(XLSTM_CUDA_AARCH64)
  # nvcc looks for both in its own folder targets/aarch64-linux, which a CUDA for one platform lacks; what links after
  # clang, in none.
  set(cuda_includes "-isystem ${XLSTM_CUDA_AARCH64}/include -isystem ${XLSTM_CUDA_AARCH64}/include/cccl")
  set(CMAKE_CUDA_FLAGS_INIT "${cuda_includes} -L${XLSTM_CUDA_AARCH64}/lib")
  set(CMAKE_CXX_FLAGS_INIT "${cuda_includes}")
  set(CMAKE_SHARED_LINKER_FLAGS_INIT "-L${XLSTM_CUDA_AARCH64}/lib")
  list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES XLSTM_CUDA_AARCH64)
endif()

# Tests run under qemu-user where it is installed.
find_program(XLSTM_QEMU_AARCH64 NAMES qemu-aarch64 qemu-aarch64-static)
if(XLSTM_QEMU_AARCH64)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${XLSTM_QEMU_AARCH64};-L;/usr/aarch64-linux-gnu")
endif()
