#!/usr/bin/env bash
# soak.sh - build velodrome and run everything at once on one loop, at random, looking for what is
# left over. The arguments go to tests/soak/run.py.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(tools/build.sh)
exec "$python" tests/soak/run.py "$@"
