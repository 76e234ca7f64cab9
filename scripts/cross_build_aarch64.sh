#!/usr/bin/env bash
# Cross-compile the native libraries for 64-bit ARM, check what came out, and run the CPU kernels' tests under qemu-user.
#
#   scripts/cross_build_aarch64.sh [BUILD_DIR]        default: build/aarch64
#
# Needs g++-aarch64-linux-gnu and qemu-user (Debian, Ubuntu), CMake, Ninja, and the headers that `plugins build` needs.
# With CUDA=0 only the ONNX Runtime library is built, with its CPU kernels. Otherwise nvcc is needed, and the CUDA
# runtime for aarch64 is fetched with pip. CUDA_ARCHITECTURES: default Orin, Thor, and what comes after.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=$(mkdir -p "${1:-$root/build/aarch64}" && cd "${1:-$root/build/aarch64}" && pwd)
python=${PYTHON:-python3}
for tool in aarch64-linux-gnu-g++ qemu-aarch64 cmake ninja readelf; do
  command -v "$tool" > /dev/null || { echo "error: $tool is not here (see the head of $0)" >&2; exit 2; }
done

header() { PYTHONPATH=$root "$python" -c "from xlstm_export.native import toolchain; print(toolchain.$1().require())"; }
options=(-DXLSTM_ONNXRUNTIME_INCLUDE_DIR="$(header onnxruntime_headers)"
         -DXLSTM_HIGHWAY_INCLUDE_DIR="$(header highway_headers)")
targets=(xlstm_onnxruntime test_cpu_cells)
libraries=(libxlstm_onnxruntime.so)
if [ "${CUDA:-1}" = 0 ]; then
  options+=(-DXLSTM_CUDA=OFF)
else
  nvcc=$(header cuda_compiler)
  version=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\.[0-9]*\),.*/\1/p')
  # A CUDA for aarch64: the headers of the build machine's, which are the same, and the runtime library of a wheel.
  cuda=$build/cuda-$version
  if [ ! -f "$cuda/lib/libcudart_static.a" ]; then
    mkdir -p "$cuda"
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux2014_aarch64 --dest "$cuda" \
      "nvidia-cuda-runtime==$version.*"
    "$python" -m zipfile --extract "$cuda"/nvidia_cuda_runtime-*.whl "$cuda"
    ln -sfn "$cuda/nvidia/cu13/lib" "$cuda/lib"
    ln -sfn "$("$nvcc" --dryrun -x cu /dev/null 2>&1 | sed -n 's/^#$ TOP=//p')/include" "$cuda/include"
  fi
  options+=(-DCMAKE_CUDA_COMPILER="$nvcc" -DCMAKE_CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES:-87-real;110}"
            -DXLSTM_CUDA_AARCH64="$cuda" -DTensorRT_INCLUDE_DIR="$(header tensorrt_headers)")
  targets+=(xlstm_tensorrt)
  libraries+=(libxlstm_tensorrt.so)
fi

cmake -S "$root/plugins" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_TOOLCHAIN_FILE="$root/plugins/cmake/aarch64-linux-gnu.cmake" "${options[@]}" > "$build/configure.log" ||
  { cat "$build/configure.log"; exit 1; }
cmake --build "$build" --target "${targets[@]}"

for library in "${libraries[@]}"; do
  file=$build/lib/$library
  readelf -h "$file" | grep -q 'Machine: *AArch64' || { echo "error: $file is not for aarch64" >&2; exit 1; }
  # Ubuntu 22.04, which JetPack 6 is made of, has glibc 2.35.
  newest=$(readelf --version-info "$file" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
  [ "$(printf '%s\nGLIBC_2.35\n' "$newest" | sort -V | tail -1)" = GLIBC_2.35 ] ||
    { echo "error: $file needs $newest; JetPack 6 has GLIBC_2.35" >&2; exit 1; }
  needed=$(readelf -d "$file" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | tr '\n' ' ')
  echo "$library: AArch64, needs $newest and ${needed}"
done
ctest --test-dir "$build" --output-on-failure --tests-regex '^cpu_cells'
