"""The loops under comparison, by name; each package is imported only in the process that measures it."""

import asyncio
import importlib
import sys

NAMES = ("asyncio", "uvloop", "velodrome")

# Measured when asked for by name; requirements-peers.txt installs them.
PEERS = ("aiofastnet", "blazio", "rloop", "rsloop", "zloop", "zuvloop")

# A loop in a process with settings of its own: whose it is, and what its environment has beside the usual. By itself
# glibc gives large blocks back to the kernel when they are freed, and asyncio reads into one each time.
VARIANTS = {
    "asyncio-malloc": ("asyncio", ["MALLOC_TRIM_THRESHOLD_=100000000", "MALLOC_MMAP_THRESHOLD_=100000000"]),
}

# All of them, in the order of the tables.
EVERYONE = ("asyncio", *VARIANTS, "uvloop", *PEERS, "velodrome")

# Not loops but servers without Python, measured like one: what the workload costs at the least. For each server of
# servers.py that one can stand in for, since the same bytes go over the same sockets, what is asked of
# loadgen/src/bin/NAME-server.rs.
ECHOES = ("protocol", "buffered", "two-writes", "streams", "streams-readexactly", "streams-readline", "sock")
OTHERS = ("unix-protocol", "udp", "accept-write-close", "send")
TLS_ECHOES = ("tls-protocol", "tls-buffered", "tls-streams")
FLOORS = {
    "epoll": {
        **dict.fromkeys(ECHOES, "protocol"),
        **{server: server for server in OTHERS},
        "unix-streams": "unix-protocol",
    },
    "io-uring": dict.fromkeys(ECHOES, "protocol"),
    "rustls": {**dict.fromkeys(TLS_ECHOES, "tls-protocol"), "tls-receive": "tls-receive"},
}

# What real services are made of; requirements.txt installs it.
SERVICES = ("aiohttp", "h11", "httptools", "uvicorn", "websockets")


def is_floor(label):
    """Whether run.py's name for a column means one of FLOORS."""
    return label.partition("#")[0] in FLOORS


def factory(name):
    """Import the package `name` and return what makes its loops."""
    if name not in NAMES + PEERS:
        raise ValueError(f"no such loop: {name}; there are {', '.join(NAMES + PEERS)}")
    package = importlib.import_module(name)
    if name == "aiofastnet":
        # Transports and TLS for another loop, whose methods it replaces.
        uvloop = importlib.import_module("uvloop")
        return lambda: package.patch_loop(uvloop.new_event_loop())
    return package.new_event_loop


def new_event_loop(name):
    """Return a fresh loop of the package `name`."""
    return factory(name)()


def version(name):
    """The version of the package `name`; asyncio's is Python's own."""
    # Not at the top, since first_loop.py counts what a loop's package imports, and this may be a part of it.
    import importlib.metadata
    import platform

    if name == "asyncio":
        return platform.python_version()
    if name == "aiofastnet":
        return f"{importlib.metadata.version(name)} over uvloop {importlib.metadata.version('uvloop')}"
    return importlib.metadata.version(name)


def services():
    """The versions of what is installed of SERVICES."""
    import contextlib
    import importlib.metadata

    found = {}
    for name in SERVICES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def run_forever(name, setup):
    """Await `setup(loop)` on a new loop of the package `name`, then run that loop until the process is ended."""
    loop = new_event_loop(name)
    asyncio.set_event_loop(loop)
    loop.run_until_complete(setup(loop))
    loop.run_forever()


if __name__ == "__main__":
    # Asked by run.py, because the interpreter that measures a loop need not be the one that runs run.py.
    import json
    import platform

    name = sys.argv[1]
    new_event_loop(name).close()
    python = {"python": platform.python_version(), "build": sys.version}
    print(json.dumps({"loop": version(name), **python, "services": services()}))
