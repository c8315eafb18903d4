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
# Where libssl cannot be called directly, Python's module does the same work.
step "TLS by the ssl module" env VELODROME_TLS=python \
    "$python" -m pytest --loop velodrome tests/contract/tls tests/python/test_tls_engine.py
step "CPython's TLS tests by the ssl module" env VELODROME_TLS=python \
    "$python" tests/cpython/run.py test_ssl test_sslproto test_sendfile test_streams
step "stubs against the built module" \
    "$python" -m mypy.stubtest velodrome --mypy-config-file pyproject.toml
step "the typed program runs" "$python" tests/typing/sample.py
step "example: set_event_loop" "$python" -m velodrome examples/set_event_loop.py
step "example: HTTP service under load" "$python" examples/http_compare.py --seconds 1 --rounds 1

if [ -n "$failed" ]; then
    printf '\nvelodrome: failed on %s:%s\n' "$tag" "$failed" >&2
    exit 1
fi
