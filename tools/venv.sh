#!/usr/bin/env bash
# venv.sh - a virtual environment of the project's own; prints the path of its python.
#
#   venv.sh NAME REQUIREMENTS...    .venv/NAME, with the packages of these files
#
# It is made again when the interpreter (see python.sh) or one of the files has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1; shift
venv=$PWD/.venv/$name
python=$(tools/python.sh)
made_for=$("$python" -c 'import sys; print(sys.executable, sys.version)'; cat "$@")

if [ "$(cat "$venv/.made-for" 2>/dev/null)" != "$made_for" ]; then
    printf 'velodrome: making .venv/%s with %s\n' "$name" "$("$python" --version)" >&2
    rm -f "$venv/.made-for"
    "$python" -m venv --clear "$venv" >&2
    requirements=()
    for file; do requirements+=(-r "$file"); done
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${requirements[@]}" >&2
    printf '%s\n' "$made_for" >"$venv/.made-for"
fi
printf '%s\n' "$venv/bin/python"
