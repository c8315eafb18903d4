#!/usr/bin/env bash
# types.sh - the types as programs see them, on every Python: mypy and pyright, both strict, read
# tests/typing; and nothing that is public may be without a type. It needs no built extension: what
# the stubs say is compared with that by `stubtest`, in test-python.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(tools/venv.sh lint tools/requirements-{check,lint}.txt)
bin=${python%/python}
# As installed: a package with py.typed, outside of the program that is checked.
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
ln -sfn "$PWD/python/velodrome" "$site/velodrome"

for version in 3.11 3.12 3.13 3.14 3.15; do
    printf 'Python %s: mypy: ' "$version"
    "$python" -m mypy --strict --python-version "$version" tests/typing
    printf 'Python %s: pyright: ' "$version"
    "$bin/pyright" --pythonpath "$python" --pythonversion "$version"
done
verdict=$(PATH=$bin:$PATH "$bin/pyright" --verifytypes velodrome --ignoreexternal) || { printf '%s\n' "$verdict"; exit 1; }
grep "completeness score" <<<"$verdict"
