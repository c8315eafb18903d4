#!/usr/bin/env bash
# wheels.sh - what a release consists of, in dist/: a wheel for each Python, and the sdist. Each is
# checked, installed into a new virtual environment and tried out there (tests/smoke.py).
#
#   wheels.sh PYTHON...    as python.sh takes them; an sdist is built by the first one
#
# The sdist is built as on a user's machine: by pip, with Rust's toolchain and the C library that is
# there.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || { echo "usage: wheels.sh PYTHON..." >&2; exit 2; }
PYTHON=$1 tools/require.sh build
first=$(PYTHON=$1 tools/python.sh)
here=$PWD
work=$here/target/wheels
venv=$work/venv
target=$(rustc -vV | sed -n 's/^host: //p')
version=$(sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml)
rm -rf "$work/done"; mkdir -p "$work/done" dist

step() { printf '\n== %s\n' "$1"; }

# try_out PYTHON FILE: away from the sources, with nothing but the file to install from.
try_out() {
    rm -rf "$venv"
    "$1" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --no-index "$2"
    (cd / && "$venv/bin/python" -I "$here/tests/smoke.py" "$version")
}

for wanted; do
    python=$(PYTHON=$wanted tools/python.sh)
    step "wheel for Python $(PYTHON=$python tools/python.sh --tag)"
    wheel=$(PYTHON=$first tools/wheel.sh "$target" "$python" "$work/done")
    try_out "$python" "$wheel"
done

step "sdist"
tools=$(PYTHON=$first tools/venv.sh wheels tools/requirements-wheels.txt)
"${tools%/python}/maturin" sdist --out "$work/done"
sdist=$work/done/velodrome-$version.tar.gz
"$tools" tools/check_artifact.py "$sdist"
rm -rf "$venv" "$work/from-sdist"
"$first" -m venv "$venv"
(cd / && env -u RUSTFLAGS -u CARGO_TARGET_DIR -u PYO3_PYTHON -u CONDA_PREFIX -u VIRTUAL_ENV \
    "$venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$work/from-sdist" "$sdist")
try_out "$first" "$(echo "$work/from-sdist"/*.whl)"

rm -f dist/velodrome-"$version"*
mv "$work/done"/* dist/
rm -rf "$venv" "$work/from-sdist"
step "dist"
(cd dist && wc -c velodrome-"$version"*)
