#!/usr/bin/env bash
# Make the virtual environment (.venv, or the folder named by VENV) for the demo; with --tests, also what the tests and
# the linters need. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
install() { "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install "torch==2.13.0"
if [ "${1:-}" != --tests ]; then
    install --editable ".[export,gpu,reference,tensorrt-rtx]"
    exit
fi
install --editable ".[dev]"
missing=()
command -v g++ >/dev/null || missing+=(g++)
command -v chromium >/dev/null || missing+=(chromium)
command -v doxygen >/dev/null || missing+=(doxygen)
command -v ccache >/dev/null || missing+=(ccache)
if [ ${#missing[@]} -gt 0 ]; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
