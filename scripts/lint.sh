#!/usr/bin/env bash
# What every change must pass: lint, format, types, the direction of imports; format and clang-tidy for the native code.
# Runs in the virtual environment that scripts/setup.sh --tests made (.venv, or the folder named by VENV).
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$(cd "${VENV:-.venv}" && pwd)/bin:$PATH"
ruff check
ruff format --check
mypy
lint-imports
git ls-files '*.cc' '*.cpp' '*.h' '*.hpp' '*.c' '*.cu' '*.cuh' | xargs clang-format --dry-run -Werror
python scripts/tidy.py
