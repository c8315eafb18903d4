#!/usr/bin/env bash
# test-python.sh - build velodrome for one interpreter (see python.sh) and run every Python test
# on it. A failed step does not keep the later ones from running; the exit status tells.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=$(tools/python.sh --tag)
python=$(tools/build.sh)

failed=
step() {
    local title=$1; shift
    printf '\n== %s: %s\n' "$tag" "$title"
    "$@" || failed+=" [$title]"
}

step "Python sources" "$python" -m ruff check
step "pytest" "$python" -m pytest
step "CPython's test_asyncio" "$python" tests/cpython/run.py
step "stubs against the built module" \
    "$python" -m mypy.stubtest velodrome --mypy-config-file pyproject.toml
step "types, as a program sees them" "$python" -m mypy --strict tests/typing/sample.py
step "the typed program runs" "$python" tests/typing/sample.py
step "example: set_event_loop" "$python" -m velodrome examples/set_event_loop.py
step "example: HTTP service under load" "$python" examples/http_compare.py --seconds 1 --rounds 1

if [ -n "$failed" ]; then
    printf '\nvelodrome: failed on %s:%s\n' "$tag" "$failed" >&2
    exit 1
fi
