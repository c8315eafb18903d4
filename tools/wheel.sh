#!/usr/bin/env bash
# wheel.sh - build a wheel of velodrome to publish, check it, and print its path.
#
#   wheel.sh TARGET PYTHON FOLDER
#
# TARGET is rustc's name of a Linux with glibc, PYTHON an interpreter, or for another machine than
# this one a version; the wheel lands in FOLDER. zig links it against glibc 2.17, the oldest that
# Rust's standard library runs on (manylinux2014). The environment variable PYTHON chooses what the
# tools run on, see python.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$1 interpreter=$2 folder=$3
tools=$(tools/venv.sh wheels tools/requirements-wheels.txt)
bin=${tools%/python}
new=$PWD/target/wheels/new
rm -rf "$new"; mkdir -p "$new" "$folder"

# What is built does not depend on where: neither on this folder nor on cargo's.
options=(${RUSTFLAGS:-} "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" "--remap-path-prefix=$PWD=/velodrome")
encoded=$(IFS=$'\x1f'; printf '%s' "${options[*]}")

# All in one target folder: cargo keeps what does not depend on the Python.
PATH=$bin:$PATH env -u CONDA_PREFIX -u VIRTUAL_ENV CARGO_TARGET_DIR="$PWD/target/wheels" CARGO_ENCODED_RUSTFLAGS="$encoded" \
    "$bin/maturin" build --release --locked --strip --zig --compatibility manylinux2014 \
    --target "$target" --interpreter "$interpreter" --out "$new" >&2

# The bill of materials names velodrome's own crates by where they are.
"$bin/wheel" unpack --dest "$new/unpacked" "$new"/*.whl >&2
sed -i "s#path+file://$PWD/#path+file:///velodrome/#g" "$new"/unpacked/*/*.dist-info/sboms/*.json
rm "$new"/*.whl
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-315532800} "$bin/wheel" pack --dest-dir "$new" "$new"/unpacked/* >&2
wheel=$(echo "$new"/*.whl)

"$tools" tools/check_artifact.py "$wheel"
verdict=$("$bin/auditwheel" show "$wheel")
if ! grep -q "\"manylinux_2_17_${target%%-*}\"" <<<"$verdict"; then
    printf '%s\n' "$verdict" >&2
    exit 1
fi
mv "$wheel" "$folder"
printf '%s\n' "$folder/${wheel##*/}"
