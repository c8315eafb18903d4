"""Datagram endpoints and plain sockets to talk to them; all are closed at the end of a test."""

import asyncio
import contextlib
import socket

import pytest

# So that its assertions tell as much as those of the tests.
pytest.register_assert_rewrite("datagram_checker")

from datagram_checker import LOCAL, Blocked, Datagrams


@pytest.fixture
def endpoint(loop):
    """Makes (transport, protocol) of a protocol, or what makes one, and the options; all are closed at the end."""
    transports = []

    async def create(protocol=Datagrams, **options):
        if callable(protocol):
            protocol = protocol()
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, **options)
        transports.append(transport)
        return transport, protocol

    yield create

    async def close_all():
        protocols = [(transport, transport.get_protocol()) for transport in transports]
        for transport, protocol in protocols:
            if protocol is not None:
                transport.abort()
        await asyncio.gather(*(protocol.lost for _, protocol in protocols if protocol is not None))

    if transports and not loop.is_closed():
        loop.run_until_complete(close_all())
    transports.clear()


@pytest.fixture
def sockets():
    """Makes non-blocking datagram sockets that are bound to an address; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(address=LOCAL):
            if isinstance(address, tuple):
                family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            else:
                family = socket.AF_UNIX
            sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sock.setblocking(False)
            sock.bind(address)
            return sock

        yield make


@pytest.fixture
def datagram_pair():
    """Two connected non-blocking Unix datagram sockets without names."""
    one, other = socket.socketpair(type=socket.SOCK_DGRAM)
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory: paths in it are short enough for a Unix socket."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nobody():
    """An address at which nobody listens."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(LOCAL)
        return sock.getsockname()


@pytest.fixture(params=["connected", "addressed", "addressed in letters of any kind"])
def blocked(request, endpoint, sockets, folder):
    """Makes a Blocked of a protocol, after `prepare(transport)`."""

    async def connect(protocol=Datagrams, prepare=lambda transport: None):
        name = "zwölf" if "letters" in request.param else "peer"
        peer = sockets(name)
        remote = {"remote_addr": name} if request.param == "connected" else {}
        transport, protocol = await endpoint(protocol, family=socket.AF_UNIX, **remote)
        prepare(transport)
        return Blocked(transport, protocol, peer, None if remote else name)

    return connect
