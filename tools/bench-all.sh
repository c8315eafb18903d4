#!/usr/bin/env bash
# bench-all.sh - measure everything that docs/benchmarks shows, and write its page.
#
#   bench-all.sh [OPTION...]    options of benches/run.py, such as --only with something for each suite
#
# The rows on all loops that can be had for this interpreter, and the floors; scaling and fairness beside asyncio and
# uvloop; where there is perf, whose code velodrome's rows spend their CPU time in; where there is valgrind, the
# instructions of its micro rows, behind those of earlier times. With ROUNDS=2 about 40 minutes from a clean clone on two
# cores, and 10 for each round more.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=docs/benchmarks
python=$(tools/build.sh peers benches/requirements.txt benches/requirements-peers.txt)
# Where rsloop has no wheel, the page says that it does not load.
"$python" -m pip install --quiet --only-binary :all: -r benches/requirements-rsloop.txt >/dev/null 2>&1 ||
    echo "bench-all.sh: no wheel of rsloop for this Python and this system" >&2
mkdir -p "$folder"

measure() {
    local suite=$1 loops=$2; shift 2
    local file=$folder/$suite.json
    rm -f "$file"
    # A peer that cannot do a workload is a failed cell, of which the page gives the reason, and status 1.
    "$python" benches/run.py --quick --rounds "${ROUNDS:-2}" --suite "$suite" --loops "$loops" --json "$file" "$@" || [ $? = 1 ]
    grep -q '"kind": "summary"' "$file" || { echo "bench-all.sh: no $suite" >&2; exit 1; }
}

measure rows all "$@"
measure scaling asyncio,uvloop,velodrome "$@"
measure fairness asyncio,uvloop,velodrome "$@"
rm -f "$folder/shares.json"
# A row that cannot be had is named, and status 1; without perf there is none, and it says so.
"$python" benches/shares.py --json "$folder/shares.json" || [ $? = 1 ]
if command -v valgrind >/dev/null; then
    "$python" benches/callgrind.py --json "$folder/instructions.json"
else
    echo "bench-all.sh: no valgrind: instructions are not counted" >&2
fi
tools/bench-page.sh "$folder"/*.json
