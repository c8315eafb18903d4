#!/usr/bin/env bash
# bench.sh - build velodrome into .venv/bench and measure it beside asyncio and uvloop.
# The arguments go to benches/run.py.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(tools/build.sh bench benches/requirements.txt)
exec "$python" benches/run.py "$@"
