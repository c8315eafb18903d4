"""Every row of the benchmark, in the order of the table."""

from dataclasses import dataclass

import micro
import servers


@dataclass(frozen=True)
class NetworkWorkload:
    name: str
    server: str  # a key of servers.SERVERS
    exchange: tuple  # loadgen's options: what is sent and what must come back
    connections: int


def echo(size):
    return ("--echo", str(size))


KIB = 1024
SIZES = {"1k": 1 * KIB, "100k": 100 * KIB}

NETWORK = [
    *(
        NetworkWorkload(f"tcp-{api}-{size}-{connections}", api, echo(SIZES[size]), connections)
        for api in ("protocol", "buffered", "streams")
        for size in SIZES
        for connections in (10, 100)
    ),
    *(
        NetworkWorkload(f"tcp-two-writes-1k-{connections}", "two-writes", echo(KIB), connections)
        for connections in (10, 100)
    ),
    *(NetworkWorkload(f"sock-{size}-10", "sock", echo(SIZES[size]), 10) for size in SIZES),
    # So few that what is under way fits into one socket's receive buffer: nothing is dropped.
    *(NetworkWorkload(f"udp-1k-{connections}", "udp", echo(KIB), connections) for connections in (10, 50)),
    NetworkWorkload("unix-protocol-1k-10", "unix-protocol", echo(KIB), 10),
    NetworkWorkload(
        "http-protocol-100", "http", ("--request", servers.HTTP_REQUEST, "--reply", servers.HTTP_REPLY), 100
    ),
    NetworkWorkload("tcp-accept-close-10", "accept-close", ("--connect",), 10),
]

ALL = [*NETWORK, *micro.WORKLOADS.values()]
