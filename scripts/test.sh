#!/usr/bin/env bash
# Set up, lint, then pass every test. No GPU needed; what needs one is skipped and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh --tests
scripts/lint.sh
PATH="$(cd "${VENV:-.venv}" && pwd)/bin:$PATH"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # the tests' models are tiny: two workers beat two threads
# The compiler from pip, also where the system has one: what is tested is a machine without CUDA.
CUDACXX=$(python -c "import nvidia, pathlib; print(pathlib.Path(nvidia.__path__[0]) / 'cu13' / 'bin' / 'nvcc')")
export CUDACXX
# Several tests build the same CUDA code in folders of their own. It is one compiler wherever its package is installed.
export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache CCACHE_COMPILERCHECK=content
# Files in their own order, which ends with small ones: by their number of tests, the longest test would begin last.
python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
