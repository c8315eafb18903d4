#!/usr/bin/env bash
# asan.sh - the Python tests with AddressSanitizer in velodrome: reads and writes of memory that is
# freed, or beyond its end, end the test run with a report.
#
#   asan.sh [PYTEST ARGUMENTS]    PYTHON chooses the interpreter, see python.sh
#
# Python takes its memory from malloc, so that the sanitizer sees its objects, too. Leaks are not
# looked for: the interpreter itself leaves some, and tests/python/test_lifetimes.py counts ours.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(tools/build.sh)
tag=$(tools/python.sh --tag)
runtime=$(gcc -print-file-name=libasan.so)
if [ "${runtime:0:1}" != / ]; then
    echo "asan.sh: gcc has no libasan; on Debian it comes with the package gcc" >&2
    exit 1
fi

# The option of the compiler is not in stable Rust. A target that is named keeps it off build scripts.
target=$(rustc -vV | sed -n 's/^host: //p')
PYO3_PYTHON=$python PYO3_BUILD_EXTENSION_MODULE=1 RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cdebug-assertions=yes" \
    CARGO_TARGET_DIR=target/asan/$tag \
    cargo build --release --package velodrome-python --target "$target" --config 'profile.release.lto="off"'

# A package of its own: the same files, another extension.
package=$PWD/target/asan/$tag/package/velodrome
rm -rf "$package"; mkdir -p "$package"
cp python/velodrome/*.py "$package"
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
cp "target/asan/$tag/$target/release/lib_native.so" "$package/_native$suffix"

reports=$PWD/target/asan/$tag/reports
rm -rf "$reports"; mkdir -p "$reports"

# Those left out measure memory, which the sanitizer keeps for a while after it is freed.
[ $# -gt 0 ] || set -- tests/contract tests/python --loop velodrome \
    --deselect tests/python/test_lifetimes.py::test_cancelled_timers_do_not_pile_up \
    --deselect tests/python/test_soak.py \
    --deselect tests/python/test_tls_lifetimes.py::test_nothing_grows_with_connections_that_are
status=0
# Reports go to files: pytest has the standard streams, and children write some, too.
PYTHONPATH=${package%/velodrome} PYTHONMALLOC=malloc LD_PRELOAD=$runtime \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:log_path=$reports/report \
    "$python" - "$package/_native$suffix" "$@" <<'RUN' || status=$?
import sys
import pytest
import velodrome
if velodrome._native.__file__ != sys.argv[1]:
    sys.exit(f"asan.sh: {velodrome._native.__file__} was loaded")
sys.exit(pytest.main(sys.argv[2:]))
RUN

for report in "$reports"/report*; do
    [ -e "$report" ] || continue
    cat "$report"; status=1
done
exit "$status"
