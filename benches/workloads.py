"""Every row of the benchmark, in the order of the tables."""

from dataclasses import dataclass

import fairness
import micro
import scaling
import servers


@dataclass(frozen=True)
class NetworkWorkload:
    name: str
    server: str  # a key of servers.SERVERS
    exchange: tuple  # loadgen's options: what is sent and what must come back
    connections: int
    packages: tuple = ()  # what the server needs beside a loop
    processes: int = 1  # servers on one port, each on a core of its own

    cost = "cpu_us"  # the field of a measurement that says what the loop needed


@dataclass(frozen=True)
class IdleWorkload:
    """Connections that do nothing any more after one exchange."""

    name: str
    server: str
    exchange: tuple
    connections: int
    packages = ()
    processes = 1

    cost = "kib_per_connection"


@dataclass(frozen=True)
class FirstLoopWorkload:
    """A new interpreter for each operation; first_loop.py measures it."""

    name: str

    cost = "cpu_us"


def is_networked(workload):
    """Whether there is a server under load."""
    return isinstance(workload, (NetworkWorkload, IdleWorkload, fairness.Situation))


def has_countable_calls(workload):
    """Whether system calls are counted: those of one server, and of no crowd, which would be met too slowly."""
    return isinstance(workload, NetworkWorkload) and workload in NETWORK


def echo(size):
    return ("--echo", str(size))


KIB = 1024
SIZES = {"1k": 1 * KIB, "10k": 10 * KIB, "100k": 100 * KIB}

UPLOAD = ("--upload", str(servers.UPLOAD_MESSAGE))
LINES = ("--lines", "100")


def download(size, variety):
    return ("--download", str(size), "--variety", str(variety))


def http(reply):
    return ("--request", servers.HTTP_REQUEST, "--reply", reply)


NETWORK = [
    *(
        NetworkWorkload(f"tcp-{api}-{size}-{connections}", api, echo(SIZES[size]), connections)
        for api in ("protocol", "buffered", "streams")
        for size in ("1k", "100k")
        for connections in (10, 100)
    ),
    NetworkWorkload("tcp-protocol-1k-1000", "protocol", echo(KIB), 1000),
    NetworkWorkload("tcp-protocol-10k-10", "protocol", echo(10 * KIB), 10),
    NetworkWorkload("tcp-protocol-pipelined-1k-10", "protocol", (*echo(KIB), "--pipeline", "16"), 10),
    *(
        NetworkWorkload(f"tcp-two-writes-1k-{connections}", "two-writes", echo(KIB), connections)
        for connections in (10, 100)
    ),
    NetworkWorkload("tcp-streams-readexactly-1k-10", "streams-readexactly", echo(servers.RECORD), 10),
    NetworkWorkload("tcp-streams-readline-10", "streams-readline", LINES, 10),
    NetworkWorkload("tcp-streams-readline-pipelined-10", "streams-readline", (*LINES, "--pipeline", "16"), 10),
    *(NetworkWorkload(f"sock-{size}-10", "sock", echo(SIZES[size]), 10) for size in ("1k", "100k")),
    # So few that what is under way fits into one socket's receive buffer: nothing is dropped.
    *(NetworkWorkload(f"udp-1k-{connections}", "udp", echo(KIB), connections) for connections in (10, 50)),
    *(NetworkWorkload(f"unix-{api}-1k-10", f"unix-{api}", echo(KIB), 10) for api in ("protocol", "streams")),
    NetworkWorkload("http-protocol-100", "http", http(servers.HTTP_REPLY), 100),
    NetworkWorkload(
        "uvicorn-httptools-100", "uvicorn-httptools", http(servers.UVICORN_REPLY), 100, ("uvicorn", "httptools")
    ),
    NetworkWorkload("uvicorn-h11-100", "uvicorn-h11", http(servers.UVICORN_REPLY), 100, ("uvicorn", "h11")),
    NetworkWorkload("aiohttp-100", "aiohttp", http(servers.AIOHTTP_REPLY), 100, ("aiohttp",)),
    NetworkWorkload("websockets-1k-100", "websockets", ("--frames", str(KIB)), 100, ("websockets",)),
    NetworkWorkload("tcp-accept-close-10", "accept-close", ("--connect",), 10),
    NetworkWorkload(
        "tcp-accept-write-close-10", "accept-write-close", ("--connect", "--greeting", servers.GREETING), 10
    ),
    NetworkWorkload("tcp-connect-10", "connect", (*echo(servers.VISIT), "--invite"), 10),
    NetworkWorkload("tcp-bulk-receive", "receive", UPLOAD, 1),
    NetworkWorkload("tcp-bulk-send", "send", download(*servers.DOWNLOAD), 1),
    NetworkWorkload("tcp-bulk-send-small", "send-small", download(*servers.SMALL_DOWNLOAD), 1),
    *(
        NetworkWorkload(f"tls-protocol-{size}-{connections}", "tls-protocol", echo(SIZES[size]), connections)
        for size, connections in (("1k", 10), ("1k", 100), ("10k", 10), ("100k", 10))
    ),
    NetworkWorkload("tls-buffered-1k-10", "tls-buffered", echo(KIB), 10),
    *(NetworkWorkload(f"tls-streams-{size}-10", "tls-streams", echo(SIZES[size]), 10) for size in SIZES),
    NetworkWorkload("tls-handshake-full", "tls-protocol", (*echo(64), "--reconnect"), 10),
    NetworkWorkload("tls-handshake-resumed", "tls-protocol", (*echo(64), "--reconnect", "--resume"), 10),
    NetworkWorkload("tls-bulk-receive", "tls-receive", UPLOAD, 1),
]

IDLE = [
    IdleWorkload("tcp-idle-memory", "protocol", echo(KIB), 1000),
    IdleWorkload("tcp-streams-idle-memory", "streams", echo(KIB), 1000),
    IdleWorkload("tls-idle-memory", "tls-protocol", echo(KIB), 1000),
]

FIRST_LOOP = FirstLoopWorkload("import-and-first-loop")

ALL = [*NETWORK, *IDLE, *micro.WORKLOADS.values(), FIRST_LOOP]

# The same at several sizes, which end the names.
SCALING = [
    *(NetworkWorkload(f"scaling-tcp-{count}", "protocol", echo(KIB), count) for count in scaling.powers_of_ten(0, 4)),
    *scaling.WORKLOADS.values(),
    *(
        NetworkWorkload(f"scaling-{name}-processes-{count}", f"{name}-shared", http(reply), 100, packages, count)
        for name, reply, packages in (
            ("http", servers.HTTP_REPLY, ()),
            ("uvicorn", servers.UVICORN_REPLY, ("uvicorn", "httptools")),
        )
        for count in (1, 2)
    ),
]

SUITES = {"rows": ALL, "scaling": SCALING, "fairness": list(fairness.SITUATIONS.values())}
