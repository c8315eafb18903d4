#!/usr/bin/env bash
# rust_futures.sh - a Rust future awaited from Python: velodrome-asyncio beside pyo3-async-runtimes with tokio.
# Arguments go to rust_futures.py.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=$(tools/python.sh --tag)
python=$(tools/build.sh)
export PYO3_BUILD_EXTENSION_MODULE=1 PYO3_PYTHON=$python
CARGO_TARGET_DIR=target/extension/$tag cargo build --release --quiet --package rust-extension
CARGO_TARGET_DIR=target/futures/$tag cargo build --release --quiet --manifest-path benches/rust-futures/Cargo.toml
exec "$python" benches/rust_futures.py "target/extension/$tag/release/librust_extension.so" \
    "target/futures/$tag/release/libtokio_futures.so" "$@"
