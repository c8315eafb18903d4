#!/usr/bin/env bash
# run.sh - what `make run` does: build velodrome into .venv/run and show it at work.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(tools/build.sh run examples/requirements.txt)

printf '\n== asyncio.set_event_loop(), on velodrome\n\n'
"$python" -m velodrome examples/set_event_loop.py

printf '\n== an HTTP service, on velodrome and on stock asyncio\n\n'
"$python" examples/http_compare.py --report target/run/report.html
