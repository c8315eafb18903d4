#!/usr/bin/env bash
# pgo.sh - build a wheel in dist/ that is optimised for what velodrome was seen to do: compile it
# with counters, run the benchmark's rows on that, and compile it again with what was counted.
# Then the wheel is shown at work in an environment of its own, .venv/pgo.
#
# PYTHON chooses the interpreter, see python.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/require.sh build
profdata=$(tools/profdata.sh)
tag=$(tools/python.sh --tag)
python=$(tools/venv.sh pgo {tools/requirements-build,benches/requirements}.txt)
work=$PWD/target/pgo/$tag

# wheel FOLDER OPTIONS... builds one in target/pgo/TAG/FOLDER, from nothing but the sources: cargo
# does not see that a profile has changed. A target that is named keeps the options off build scripts.
wheel() {
    local folder=$work/$1; shift
    local options=(${RUSTFLAGS:-} "$@") IFS=$'\x1f'
    rm -rf "$folder"
    env -u CONDA_PREFIX CARGO_TARGET_DIR="$folder" CARGO_ENCODED_RUSTFLAGS="${options[*]}" \
        "${python%/python}/maturin" build --release --locked --interpreter "$python" \
        --target "$(rustc -vV | sed -n 's/^host: //p')" --out "$folder" >&2
    printf '%s\n' "$folder"/*.whl
}

install() {
    "$python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$1" >&2
}

step() { printf '\n== %s\n' "$1"; }

step "velodrome with counters"
wheel=$(wheel counting -Cprofile-generate="$work/astray")
install "$wheel"

step "counting"
rm -rf "$work/counts"
LLVM_PROFILE_FILE=$work/counts/%p.profraw "$python" benches/train.py
"$profdata" merge --output "$work/profile" "$work/counts"

step "velodrome with this profile"
# The standard library is compiled already, without counters: that its functions have none is no news.
wheel=$(wheel optimised -Cprofile-use="$work/profile" -Cllvm-args=-pgo-warn-missing-function=false)
install "$wheel"

step "at work"
"$python" - <<'CHECK'
import sysconfig
import velodrome
if not velodrome._native.__file__.startswith(sysconfig.get_path("platlib")):
    raise SystemExit(f"pgo.sh: {velodrome._native.__file__} was loaded")
CHECK
"$python" -m velodrome examples/set_event_loop.py
"$python" tests/soak/run.py --seconds=10

mkdir -p dist
cp "$wheel" dist/
printf '\n%s\n' "dist/${wheel##*/}"
