#!/usr/bin/env bash
# Set up, then pass every test. No GPU needed; what needs one is skipped and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh --tests
PATH="$(cd "${VENV:-.venv}" && pwd)/bin:$PATH"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # the tests' models are tiny: two workers beat two threads
python -m pytest --numprocesses 2 --dist loadfile "$@"
