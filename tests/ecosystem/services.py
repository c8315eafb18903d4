"""The servers that some suites need: PostgreSQL and Redis, the machine's own or Debian's, unpacked into target/."""

import os
import shutil
from pathlib import Path

from prepare import Unavailable, run
from projects import WORK

REDIS_PACKAGES = ["redis-server", "redis-sentinel", "redis-tools", "liblzf1", "libjemalloc2", "libatomic1"]
POSTGRESQL_PACKAGES = ["postgresql-15", "postgresql-client-15", "libpq5", "libllvm14"]


def unpacked(name, packages):
    """The folder with the files of these Debian packages, which are not installed."""
    folder = WORK / name
    if not (folder / "usr").exists():
        if not shutil.which("apt-get"):
            raise Unavailable(f"there is no {name} here, and no apt to fetch it with")
        folder.mkdir(parents=True, exist_ok=True)
        run(["apt-get", "download", "-qq", *packages], cwd=folder)
        for package in folder.glob("*.deb"):
            run(["dpkg", "-x", package, folder])
    return folder


def with_libraries(folder):
    """The variable that lets programs of an unpacked folder find its libraries."""
    folders = sorted({str(path.parent) for path in folder.glob("usr/lib/**/*.so*")})
    return {"LD_LIBRARY_PATH": ":".join(folders)}


def postgresql():
    """What tells asyncpg's suite, which starts clusters of its own, where PostgreSQL is."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if installed:
        return {"PGINSTALLATION": str(installed[-1].parent)}, []
    if initdb := shutil.which("initdb"):
        return {"PGINSTALLATION": os.path.dirname(os.path.realpath(initdb))}, []
    folder = unpacked("postgresql", POSTGRESQL_PACKAGES)
    (initdb,) = folder.glob("usr/lib/postgresql/*/bin/initdb")
    return {"PGINSTALLATION": str(initdb.parent), **with_libraries(folder)}, []


# The tests begin when the server answers: what it does not say, they guess.
WITH_REDIS = """\
redis-server --port 6379 --save "" --appendonly no --enable-debug-command yes >/dev/null & servers=$!
until redis-cli ping >/dev/null 2>&1; do kill -0 $servers || exit 1; sleep 0.1; done
for port in 26379 26380 26381; do
    printf 'port %s\nsentinel monitor redis-py-test 127.0.0.1 6379 2\n' $port >"$HOME/$port.conf"
    redis-sentinel "$HOME/$port.conf" >/dev/null & servers="$servers $!"
done
"$@"; status=$?
kill $servers
exit $status
"""


def redis():
    """A command that starts a Redis server and its sentinels on the ports where the tests look, and then the tests."""
    environment = {}
    if not shutil.which("redis-server"):
        folder = unpacked("redis", REDIS_PACKAGES)
        environment = with_libraries(folder) | {"PATH": f"{folder}/usr/bin:{os.environ['PATH']}"}
    run(["redis-server", "--version"], env=os.environ | environment)
    return environment, ["sh", "-c", WITH_REDIS, "redis"]


SERVICES = {"postgresql": postgresql, "redis": redis}
