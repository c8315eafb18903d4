#!/usr/bin/env bash
# bench-page.sh - write docs/benchmarks/README.md and its plots from files of measurements.
#
#   bench-page.sh FILE...    written by benches/run.py, callgrind.py or shares.py --json
set -euo pipefail
cd "$(dirname "$0")/.."

# An environment of its own: nothing is measured in it, so it needs no velodrome.
python=$(tools/venv.sh plots benches/requirements-plots.txt)
exec "$python" benches/page.py "$@"
