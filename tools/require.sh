#!/usr/bin/env bash
# require.sh - what a build needs from the machine; names everything that is missing, at once.
#
#   require.sh build    compile the extension
#   require.sh check    ... and run rustfmt and clippy
set -euo pipefail
cd "$(dirname "$0")/.."

missing=
lack() { missing+="  $1"$'\n'"      $2"$'\n'; }
have() { type -P "$1" >/dev/null; }

oldest_rust=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
oldest_rust=${oldest_rust:-1.88}
rust_hint="Debian's own is too old up to 13, which has rustup instead: apt-get install rustup;
      elsewhere: https://rustup.rs; then: rustup default stable"

if ! have cargo || ! have rustc || ! rust=$(rustc --version 2>/dev/null); then
    lack "cargo and rustc, $oldest_rust or newer" "$rust_hint"
else
    rust=${rust#rustc }; rust=${rust%% *}
    if [ "$(printf '%s\n' "$oldest_rust" "$rust" | sort -V | head -n 1)" != "$oldest_rust" ]; then
        lack "rustc $oldest_rust or newer (this is $rust)" "$rust_hint"
    fi
fi
have cc || lack "cc, which rustc links with" "apt-get install gcc libc6-dev"
have make || lack "make" "apt-get install make"

if [ "${1:-}" = check ]; then
    cargo fmt --version >/dev/null 2>&1 ||
        lack "rustfmt" "rustup component add rustfmt"
    cargo clippy --version >/dev/null 2>&1 ||
        lack "clippy" "rustup component add clippy"
    have openssl || lack "openssl, which makes the benchmark's certificates" "apt-get install openssl"
fi

if python=$(tools/python.sh); then
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        lack "the venv module of $python" \
             "apt-get install $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
else
    missing+=$'  a Python interpreter (see above)\n'
fi

if [ -n "$missing" ]; then
    printf 'velodrome: missing on this machine:\n%s' "$missing" >&2
    exit 1
fi
