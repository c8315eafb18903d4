#!/usr/bin/env bash
# docs.sh - the site into target/site. A warning, a link that leads nowhere, or a file that a browser would have to
# fetch from elsewhere is an error. velodrome is built for it: its native classes document themselves.
set -euo pipefail
cd "$(dirname "$0")/.."

# Built as for the tests: in an environment of its own it would be compiled again, and for the tests once more.
tools/build.sh >/dev/null
python=$(tools/venv.sh docs tools/requirements-docs.txt)
# Not --quiet: that keeps warnings from being counted. The variable keeps an advertisement out of each build.
PYTHONPATH=python NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --strict --clean
printf "the site is in target/site: %s -m http.server --bind 127.0.0.1 --directory target/site\n" "$python"
