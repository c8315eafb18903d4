#!/usr/bin/env bash
# bench-rust.sh - measure what velodrome is to Rust, each beside its peers in one run: the loop for Rust programs
# (benches/runtimes.py), and a Rust future awaited from Python (benches/rust_futures.py).
#
# PYTHON chooses the interpreter of the second, see python.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=$(tools/python.sh --tag)
python=$(tools/build.sh)
"$python" benches/runtimes.py

export PYO3_BUILD_EXTENSION_MODULE=1 PYO3_PYTHON=$python
CARGO_TARGET_DIR=target/extension/$tag cargo build --release --locked --quiet --package rust-extension
CARGO_TARGET_DIR=target/futures/$tag cargo build --release --locked --quiet --manifest-path benches/rust-futures/Cargo.toml
"$python" benches/rust_futures.py "target/extension/$tag/release/librust_extension.so" \
    "target/futures/$tag/release/libtokio_futures.so"
