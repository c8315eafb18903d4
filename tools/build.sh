#!/usr/bin/env bash
# build.sh - compile the extension in release mode, install velodrome into a virtual environment
# of its own, and print the path of that environment's python.
#
#   build.sh                         .venv/VERSION, with everything the tests need
#   build.sh NAME REQUIREMENTS...    .venv/NAME, with the packages of these files
#
# velodrome is installed editable: the package stays in python/, and the extension lands beside
# it under the interpreter's own suffix, so builds for several Pythons live side by side.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/require.sh build
tag=$(tools/python.sh --tag)
[ $# -gt 0 ] || set -- "$tag" {tools/requirements-check,tests/requirements,examples/requirements}.txt
python=$(tools/venv.sh "$@" tools/requirements-build.txt)

# A target folder for each Python: cargo would compile pyo3 again whenever the interpreter
# changes. Conda's variable is dropped because maturin refuses to choose between environments.
env -u CONDA_PREFIX VIRTUAL_ENV="${python%/bin/python}" \
    CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/$tag}" \
    "${python%/python}/maturin" develop --release >&2
"$python" -c 'import sys, velodrome; print("velodrome", velodrome.__version__, file=sys.stderr)'
printf '%s\n' "$python"
