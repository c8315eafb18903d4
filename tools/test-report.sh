#!/usr/bin/env bash
# test-report.sh - the tests of the page that `make run` writes, on one interpreter (see python.sh).
#
# Those that look at it need Chromium. CI's machine (CI is set) gets it from Debian when it lacks it and this is root;
# elsewhere nothing is installed, and without it they are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

have_chromium() { [ -n "$(type -P chromium chromium-browser google-chrome)" ]; }

if ! have_chromium && [ -n "${CI:-}" ] && [ "$(id -u)" = 0 ] && type -P apt-get >/dev/null; then
    echo "velodrome: installing chromium" >&2
    export DEBIAN_FRONTEND=noninteractive
    patient=(-o Acquire::Retries=3 -o DPkg::Lock::Timeout=120)
    apt-get "${patient[@]}" update -qq >&2
    apt-get "${patient[@]}" install -qq --no-install-recommends chromium >/dev/null
fi

python=$(tools/build.sh)
printf '\n== %s: the report of make run, in Chromium\n' "$(tools/python.sh --tag)"
exec "$python" -m pytest tests/report
