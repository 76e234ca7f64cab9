#!/usr/bin/env bash
# Write the King James Bible (public domain) as plain text, one verse a line, to the file named by $1.
# The text comes from Debian's packages bible-kjv and bible-kjv-text.
set -euo pipefail
out=${1:?usage: scripts/fetch_kjv.sh OUTPUT.txt}
if ! command -v bible >/dev/null; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq bible-kjv
fi
bible -f 'gen1:1-rev22:21' >"$out.partial"
lines=$(wc -l <"$out.partial")
if [ "$lines" -ne 31102 ]; then
    echo "expected the Bible's 31102 verses, got $lines lines; see $out.partial" >&2
    exit 1
fi
mv "$out.partial" "$out"
