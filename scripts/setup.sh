#!/usr/bin/env bash
# Make the virtual environment (.venv, or the folder named by VENV) with all that the demo and the tests need.
# Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0"
"$venv/bin/pip" install --quiet --disable-pip-version-check --editable ".[dev]"
