#!/usr/bin/env bash
# The main job on the trained model in models/kjv: set up, export, validate, generate, build an engine. No GPU needed.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
PATH="$(cd "${VENV:-.venv}" && pwd)/bin:$PATH"
bundle=${1:-bundles/kjv}

run() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    "$@"
}

run xlstm-export inspect models/kjv
run xlstm-export onnx models/kjv -o "$bundle" --overwrite
run xlstm-export validate "$bundle" --checkpoint models/kjv --text models/kjv/heldout.txt
run xlstm-export generate "$bundle" --prompt "In the beginning " --max-new-tokens 600
run xlstm-export build "$bundle" --runtime tensorrt-rtx --target sm86,sm89,sm120
