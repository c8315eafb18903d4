#!/usr/bin/env bash
# check.sh - everything that needs no built extension: the Rust code, and the benchmark's own tests.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/require.sh check
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/check}
PYO3_PYTHON=$(tools/python.sh)  # the seam is compiled against some interpreter, even for clippy
export PYO3_PYTHON

step() { printf '\n== %s\n' "$1"; shift; "$@"; }

model_is_python_free() {
    local tree
    tree=$(cargo tree --package velodrome --all-features --edges all --prefix none)
    if grep -E '^pyo3' <<<"$tree"; then
        echo "the model, crate velodrome, must not depend on Python" >&2
        return 1
    fi
    tree=$(cargo tree --package velodrome-asyncio --edges normal --prefix none)
    if grep -E '^velodrome-python' <<<"$tree"; then
        echo "velodrome-asyncio finds the loop at run time: it must not depend on the extension" >&2
        return 1
    fi
}

# An extension chooses the version of pyo3. The workspace has the newest of the range that velodrome-asyncio allows.
compiles_with_oldest_pyo3() {
    local folder="$CARGO_TARGET_DIR/oldest-pyo3"
    mkdir -p "$folder/src"
    echo 'pub use velodrome_asyncio::future_into_py;' >"$folder/src/lib.rs"
    cat >"$folder/Cargo.toml" <<END
[package]
name = "oldest-pyo3"
edition = "2024"

[dependencies]
pyo3 = "=0.29.0"
velodrome-asyncio = { path = "$PWD/crates/velodrome-asyncio" }

[workspace]
END
    cp Cargo.lock "$folder"
    cargo check --manifest-path "$folder/Cargo.toml"
}

workflows_are_valid() {
    local python
    python=$(tools/venv.sh lint tools/requirements-{check,lint}.txt)
    "${python%/python}/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
}

# The load generator is a workspace of its own, so that its dependencies are not velodrome's.
loadgen=(--manifest-path benches/loadgen/Cargo.toml)
lints=(-D warnings -D clippy::undocumented_unsafe_blocks)

step "format" cargo fmt --all --check
step "format, load generator" cargo fmt "${loadgen[@]}" --check
step "format, the other side of bench-rust.sh" cargo fmt --manifest-path benches/rust-futures/Cargo.toml --check
step "format, other runtimes" cargo fmt --manifest-path benches/runtimes/Cargo.toml --check
step "clippy" cargo clippy --workspace --all-targets -- "${lints[@]}"
step "clippy, load generator" cargo clippy "${loadgen[@]}" --all-targets -- "${lints[@]}"
step "clippy, other runtimes" cargo clippy --manifest-path benches/runtimes/Cargo.toml -- "${lints[@]}"
# There is no such interpreter here: it must go on compiling, and no more is claimed.
step "compiles for free-threaded Python" env PYO3_CONFIG_FILE="$PWD/tools/free-threaded.cfg" \
    cargo check --package velodrome-python --package velodrome-asyncio
step "compiles with the oldest pyo3" compiles_with_oldest_pyo3
step "the model knows no Python" model_is_python_free
for example in set_event_loop echo_protocol; do
    step "example for Rust programs: $example" cargo run --quiet --package velodrome --example "$example"
done
step "Rust tests" cargo test --package velodrome --all-features
step "documentation of velodrome" env RUSTDOCFLAGS="-D warnings -D rustdoc::broken_intra_doc_links" \
    cargo doc --package velodrome --no-deps --all-features
step "examples in the documentation of velodrome-asyncio" cargo test --doc --package velodrome-asyncio
step "the inbox and the count of wakers, in every interleaving of their threads" env RUSTFLAGS="--cfg loom" \
    CARGO_TARGET_DIR="$CARGO_TARGET_DIR/loom" cargo test --release --package velodrome --lib interleavings
step "Rust tests, load generator" cargo test "${loadgen[@]}"
step "types, as programs see them" tools/types.sh
step "the benchmark notices wrong answers" "$PYO3_PYTHON" -m unittest discover -s benches
step "workflows" workflows_are_valid
step "licences of what is linked" "$PYO3_PYTHON" tools/third_party.py --check
step "the tools do what they say; each public item of velodrome has an example" "$PYO3_PYTHON" -m unittest discover -s tests/tools
