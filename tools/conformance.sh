#!/usr/bin/env bash
# conformance.sh - CPython's own test_asyncio on velodrome and on stock asyncio, on each interpreter,
# side by side: writes docs/conformance.md.
#
#   conformance.sh PYTHON...    as python.sh takes them
set -euo pipefail
cd "$(dirname "$0")/.."

logs=target/conformance
rm -rf "$logs"; mkdir -p "$logs"
failed=
for wanted; do
    python=$(PYTHON=$wanted tools/build.sh)
    name=${wanted//\//_}
    for loop in velodrome asyncio; do
        printf '\n== %s: %s\n' "$wanted" "$loop"
        "$python" tests/cpython/run.py --loop "$loop" | tee "$logs/$name.$loop" ||
            [ "$loop" = asyncio ] || failed+=" $wanted"
    done
    printf '\n== %s: TLS by the ssl module\n' "$wanted"
    VELODROME_TLS=python "$python" tests/cpython/run.py \
        test_ssl test_sslproto test_sendfile test_streams | tee "$logs/$name.module" || failed+=" $wanted"
done
"$python" tools/conformance.py "$logs" >docs/conformance.md
echo "wrote docs/conformance.md"
if [ -n "$failed" ]; then
    echo "tests failed:$failed" >&2
    exit 1
fi
