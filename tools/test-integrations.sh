#!/usr/bin/env bash
# test-integrations.sh - servers, frameworks and tools on velodrome, started as docs/servers.md and docs/tools.md say.
# The arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=$(tools/python.sh --tag)  # by itself: an interpreter that is not there ends this
case $tag in
    3.11 | 3.12 | 3.13 | 3.14) ;;
    *) echo "velodrome: make test-integrations is for Python 3.11 to 3.14, which all of its packages have wheels for"; exit ;;
esac

tools/build.sh >/dev/null
python=$(tools/venv.sh "integrations-$tag" tests/integrations/requirements.txt)
# What was built for the other tests, without building it again for this interpreter's path.
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "$PWD/python" >"$site/velodrome.pth"
# The plugins that the tests are about are theirs alone.
exec "$python" -m pytest -p no:asyncio -p no:anyio tests/integrations "$@"
