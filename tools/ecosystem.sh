#!/usr/bin/env bash
# ecosystem.sh - the test suites of projects that use asyncio, on stock asyncio and on velodrome, side by side.
# The arguments go to tests/ecosystem/run.py; without any, it writes docs/ecosystem.md.
set -euo pipefail
cd "$(dirname "$0")/.."

# The versions in tests/ecosystem/requirements were chosen for this Python.
export PYTHON=${PYTHON:-3.13}
python=$(tools/build.sh)
exec "$python" tests/ecosystem/run.py "$@"
