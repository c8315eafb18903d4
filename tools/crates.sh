#!/usr/bin/env bash
# crates.sh - the crates as they would be published: packed, unpacked elsewhere and compiled there, each
# with the others from the packages. Nothing is published. PYTHON as for python.sh; the arguments go to
# `cargo publish`, which without --allow-dirty wants everything committed.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/require.sh build
PYO3_PYTHON=$(tools/python.sh)
work=$PWD/target/crates

# What cargo has of a version that was published never changes, it thinks: neither what it unpacked into its home nor
# what it compiled. So both begin anew, in a home with nothing of the usual one but the settings.
rm -rf "$work"; mkdir -p "$work/home"
for settings in "${CARGO_HOME:-$HOME/.cargo}"/config{.toml,}; do
    [ ! -e "$settings" ] || ln -s "$(realpath "$settings")" "$work/home/"
done

export PYO3_PYTHON CARGO_HOME=$work/home CARGO_TARGET_DIR=$work
cargo publish --dry-run --locked "$@" --package velodrome-abi --package velodrome --package velodrome-asyncio
