#!/usr/bin/env bash
# crates.sh - the crates as they would be published: packed, unpacked elsewhere and compiled there, each
# with the others from the packages. Nothing is published. PYTHON as for python.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/require.sh build
PYO3_PYTHON=$(tools/python.sh)
export PYO3_PYTHON CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/crates}
cargo publish --dry-run --locked "$@" --package velodrome-abi --package velodrome --package velodrome-asyncio
