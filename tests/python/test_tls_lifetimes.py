"""What TLS has done with is gone: objects, descriptors and native memory, of handshakes that succeed and that fail.

VELODROME_TLS_HANDSHAKES in the environment says how many handshakes of each kind there are; 10,000 take minutes.
"""

import asyncio
import contextlib
import gc
import itertools
import os
import socket
import ssl
import struct
import sys
import weakref

import pytest
from support import COUNTS_NATIVE_BYTES, gone, native_bytes, open_fds, resident_bytes

HANDSHAKES = int(os.environ.get("VELODROME_TLS_HANDSHAKES", "300"))
ROUNDS = 6

LINGER_NOT = struct.pack("ii", 1, 0)  # close() resets the connection


class Watched(asyncio.Protocol):
    """An echo that keeps its transport, as most protocols do, and so makes a cycle."""

    def __init__(self, tls):
        self.tls = tls
        self.lost = tls.loop.create_future()
        tls.watch(self)

    def connection_made(self, transport):
        self.transport = transport
        self.tls.watch(transport)
        self.tls.watch(transport.get_extra_info("ssl_object"))

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class Client(Watched):
    def __init__(self, tls):
        super().__init__(tls)
        self.answered = tls.loop.create_future()

    def data_received(self, data):
        self.answered.set_result(data)


class Tls:
    """A TLS server, a server without, and what was made by them and for their clients."""

    def __init__(self, loop, certificates):
        self.loop = loop
        self.server_context = certificates.server_context()
        self.client_context = certificates.client_context()
        self.suspicious_context = ssl.create_default_context(cafile=certificates.stranger)
        self.moments = itertools.cycle(range(20))
        self.watched = []
        self.is_watching = False

    def watch(self, thing):
        if self.is_watching:
            self.watched.append(weakref.ref(thing))

    async def start(self):
        self.server = await self.loop.create_server(lambda: Watched(self), "127.0.0.1", 0, ssl=self.server_context)
        self.address = self.server.sockets[0].getsockname()
        self.plain_server = await asyncio.start_server(self.upgrade, "127.0.0.1", 0)
        self.plain_address = self.plain_server.sockets[0].getsockname()

    async def stop(self):
        for server in (self.server, self.plain_server):
            server.close()
            await server.wait_closed()

    async def upgrade(self, reader, writer):
        with contextlib.suppress(OSError):
            await writer.start_tls(self.server_context)
            self.watch(writer.transport)
            writer.write(await reader.read(100))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def connect(self, context=None, **options):
        _, client = await self.loop.create_connection(
            lambda: Client(self),
            *self.address,
            ssl=context or self.client_context,
            server_hostname="localhost",
            **options,
        )
        return client

    async def rest(self):
        """Until the other side has noticed the end, too."""
        while len(asyncio.all_tasks(self.loop)) > 1 or len(open_fds()) > self.descriptors:
            await asyncio.sleep(0.0005)


# --- what connections go through ------------------------------------------------------------------


async def closed(tls):
    client = await tls.connect()
    client.transport.write(b"hello")
    await client.answered
    client.transport.close()
    await client.lost


async def aborted(tls):
    client = await tls.connect()
    client.transport.write(b"x" * 100_000)
    client.transport.abort()
    await client.lost


async def left_alone(tls):
    """Its socket is shut down beneath it."""
    client = await tls.connect()
    client.transport.write(b"hello")
    await client.answered
    sock = socket.socket(fileno=os.dup(client.transport.get_extra_info("socket").fileno()))
    with sock:
        sock.shutdown(socket.SHUT_RDWR)
    await client.lost


async def paused(tls):
    client = await tls.connect()
    client.transport.pause_reading()
    client.transport.write(b"x" * 100_000)
    await asyncio.sleep(0)
    client.transport.abort()
    await client.lost


async def distrusted(tls):
    with contextlib.suppress(ssl.SSLCertVerificationError):
        await tls.connect(tls.suspicious_context)


async def cancelled(tls):
    """At one moment after the other, from before it began to after its end."""
    connecting = tls.loop.create_task(tls.connect())
    for _ in range(next(tls.moments)):
        await asyncio.sleep(0)
    connecting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        client = await connecting
        client.transport.abort()
        await client.lost


async def too_late(tls):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with contextlib.suppress(ConnectionAbortedError):
            await tls.loop.create_connection(
                lambda: Client(tls),
                *listener.getsockname(),
                ssl=tls.client_context,
                server_hostname="localhost",
                ssl_handshake_timeout=0.0001,
            )


async def no_tls(tls):
    with socket.create_connection(tls.address) as sock:
        sock.setblocking(False)
        await tls.loop.sock_sendall(sock, b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while await tls.loop.sock_recv(sock, 1000):
                pass


async def reset(tls):
    with socket.create_connection(tls.address) as sock:
        sock.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)


async def upgraded(tls):
    reader, writer = await asyncio.open_connection(*tls.plain_address)
    for each in (reader, writer, writer.transport, writer.transport.get_protocol()):
        tls.watch(each)
    await writer.start_tls(tls.client_context, server_hostname="localhost")
    tls.watch(writer.transport)
    writer.write(b"hello")
    await reader.readexactly(5)
    writer.close()
    await writer.wait_closed()


async def not_upgraded(tls):
    reader, writer = await asyncio.open_connection(*tls.plain_address)
    for each in (reader, writer, writer.transport, writer.transport.get_protocol()):
        tls.watch(each)
    with contextlib.suppress(ssl.SSLCertVerificationError):
        await writer.start_tls(tls.suspicious_context, server_hostname="localhost")
    writer.close()
    with contextlib.suppress(ssl.SSLCertVerificationError):
        await writer.wait_closed()


KINDS = (
    closed,
    aborted,
    left_alone,
    paused,
    distrusted,
    cancelled,
    too_late,
    no_tls,
    reset,
    upgraded,
    not_upgraded,
)


# --- the tests ------------------------------------------------------------------------------------


@pytest.fixture
def tls(new_loop, certificates):
    before = len(open_fds())
    loop = new_loop()
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    tls = Tls(loop, certificates)
    loop.run_until_complete(tls.start())
    tls.descriptors = len(open_fds())
    yield tls
    loop.run_until_complete(tls.stop())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert len(open_fds()) == before
    assert reports == []


async def repeat(tls, kind, count):
    """A few at a time."""
    for start in range(0, count, 4):
        await asyncio.gather(*(kind(tls) for _ in range(min(4, count - start))))
        await tls.rest()


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_freed_of_a_connection_that_is(tls, kind):
    async def connect():
        tls.is_watching = True
        await repeat(tls, kind, 24)
        tls.is_watching = False

    tls.loop.run_until_complete(connect())
    tls.loop.run_until_complete(asyncio.sleep(0))
    assert tls.watched
    assert gone(*tls.watched)


@pytest.mark.timeout(max(90, HANDSHAKES))
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_grows_with_connections_that_are(tls, kind):
    count = HANDSHAKES // ROUNDS
    # A leak grows by something with each connection; anything else stands still in at least one round.
    allowed = {sys.getallocatedblocks: max(20, count // 4)}
    if COUNTS_NATIVE_BYTES:
        allowed[native_bytes] = max(5000, count * 50)
    if hasattr(sys, "gettotalrefcount"):
        allowed[sys.gettotalrefcount] = max(20, count // 4)
    readings = []
    resident = 0
    for number in range(ROUNDS + 1):
        tls.loop.run_until_complete(repeat(tls, kind, count))
        gc.collect()
        readings.append([metric() for metric in allowed])
        if number == 1:
            resident = resident_bytes("self")
    for metric, values in zip(allowed, zip(*readings, strict=True), strict=True):
        growth = min(later - earlier for earlier, later in zip(values, values[1:], strict=False))
        assert growth < allowed[metric], f"{metric.__name__}: {values}"
    # Half a page each: the heap may be in pieces, but not in ever more of them.
    assert resident_bytes("self") - resident < (4 << 20) + HANDSHAKES * 2048
