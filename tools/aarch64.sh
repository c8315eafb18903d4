#!/usr/bin/env bash
# aarch64.sh - build a wheel for aarch64 on another machine, and try it out in qemu (tests/smoke.py).
#
#   aarch64.sh VERSION    of Python: 3.13 or newer
#
# It needs the Rust target aarch64-unknown-linux-gnu and qemu-user; zig brings the linker and the C
# library. The emulated interpreter comes from tools/pythons.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:?usage: aarch64.sh VERSION}
target=aarch64-unknown-linux-gnu
PYTHON=${PYTHON:-} tools/require.sh build
[ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] ||
    { echo "aarch64.sh: no Rust library for it here: rustup target add $target" >&2; exit 1; }
emulated=$(tools/pythons.sh "$version-aarch64")

printf '\n== wheel for Python %s, aarch64\n' "$version"
work=$PWD/target/aarch64
rm -rf "$work"
wheel=$(tools/wheel.sh "$target" "$version" "$work")

printf '\n== at work, in qemu\n'
# By this machine's pip, which cannot run there.
"$(tools/venv.sh wheels tools/requirements-wheels.txt)" -m pip install --quiet --disable-pip-version-check --no-index \
    --target "$work/site" --platform manylinux2014_aarch64 --python-version "$version" --only-binary :all: "$wheel"
smoke=$PWD/tests/smoke.py
(cd / && PYTHONPATH=$work/site "$emulated" "$smoke")
mkdir -p dist
cp "$wheel" dist/
