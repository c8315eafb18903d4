"""What does the TLS of a connection: the interpreter's libssl, or its `ssl` module where that is not possible."""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import subprocess
import sys

import pytest
from velodrome import _native, _tls

LIBSSL = os.environ.get("VELODROME_TLS") != "python"


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


@pytest.fixture
def exchange(new_loop, certificates):
    """Sends 100,000 bytes to an echo server and gets them back; returns the closed transport."""

    async def main(context):
        server = await asyncio.get_running_loop().create_server(
            Echo, "127.0.0.1", 0, ssl=certificates.server_context()
        )
        async with server:
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=context, server_hostname="localhost"
            )
            writer.write(b"x" * 100_000)
            assert await reader.readexactly(100_000) == b"x" * 100_000
            writer.close()
            await writer.wait_closed()
            return writer.transport

    def exchange(context=None):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(main(context or certificates.client_context()))

    return exchange


def test_libssl_is_recognised_in_every_python_that_is_tested():
    assert _native.tls_engine() == "libssl"


def test_connections_use_it(exchange):
    assert exchange()._is_native is LIBSSL


@pytest.mark.parametrize("engine", ["libssl", "python"])
def test_the_environment_decides(engine):
    program = "import velodrome._tls; print(velodrome._tls._USE_LIBSSL)"
    environment = {**os.environ, "VELODROME_TLS": engine}
    answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert answer.stdout == f"{engine == 'libssl'}\n"


def test_a_message_callback_is_served_by_the_module(exchange, certificates):
    """What it raises arrives in the module's methods alone."""
    messages = []
    context = certificates.client_context()
    context._msg_callback = lambda *message: messages.append(message)
    assert exchange(context)._is_native is False
    assert messages


def test_an_object_that_reads_for_itself_is_asked(exchange, certificates):
    read = []

    class Object(ssl.SSLObject):
        def read(self, *arguments):
            data = super().read(*arguments)
            read.append(data)
            return data

    context = certificates.client_context()
    context.sslobject_class = Object
    assert exchange(context)._is_native is False
    assert b"".join(read) == b"x" * 100_000


def test_an_object_that_only_shakes_hands_for_itself_is_asked_for_that(exchange, certificates):
    handshakes = []

    class Object(ssl.SSLObject):
        def do_handshake(self):
            handshakes.append(self)
            super().do_handshake()

    context = certificates.client_context()
    context.sslobject_class = Object
    assert exchange(context)._is_native is LIBSSL
    assert handshakes


def test_the_object_survives_its_connection(exchange):
    """Its own methods go through the buffers of the connection, which live as long as it does."""
    ssl_object = exchange().get_extra_info("ssl_object")
    gc.collect()
    assert ssl_object.getpeercert()["subject"]
    with pytest.raises(ssl.SSLError):
        ssl_object.write(b"x")
    with pytest.raises(ssl.SSLError):
        ssl_object.read(1)


def test_the_collector_may_run_in_the_middle_of_a_construction(new_loop, certificates):
    """Up to Python 3.12 it sees a transport whose dictionary is there before its content is."""
    loop = new_loop()
    context = certificates.client_context()
    # So many are kept that the interpreter has no dictionary in reserve.
    transports = []
    thresholds = gc.get_threshold()
    try:
        for allocations in range(1, 12):
            gc.set_threshold(allocations)
            for _ in range(50):
                transports.append(_tls.make_transport(loop, Echo(), context, server_hostname="localhost"))
    finally:
        gc.set_threshold(*thresholds)
    for transport in transports:
        transport.abort()
    loop.close()


@pytest.fixture
def pair(new_loop, certificates):
    """Runs `use(transport, protocol, server's protocol)` with a connection of two transports."""

    def run(use, protocol=Echo, context=None):
        async def main():
            loop = asyncio.get_running_loop()
            accepted = loop.create_future()

            class Server(Echo):
                def connection_made(self, transport):
                    super().connection_made(transport)
                    accepted.set_result(self)

            server = await loop.create_server(Server, "127.0.0.1", 0, ssl=certificates.server_context())
            async with server:
                transport, client = await loop.create_connection(
                    protocol,
                    *server.sockets[0].getsockname(),
                    ssl=context or certificates.client_context(),
                    server_hostname="localhost",
                )
                try:
                    # Not the server's side yet: it may be waited for in vain.
                    return await asyncio.wait_for(use(transport, client, accepted), 30)
                finally:
                    transport.abort()

        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(main())

    return run


def run_in_child(program, certificates):
    """Memory errors end a process, so it is another one."""
    tests = os.path.dirname(os.path.dirname(__file__))
    environment = {**os.environ, "AUTHORITY": str(certificates.authority), "SERVER": str(certificates.ecdsa)}
    child = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PRELUDE + program],
        env=environment,
        cwd=tests,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    assert "panicked" not in child.stderr
    return child.stdout


PRELUDE = """
import asyncio, contextlib, gc, os, ssl, velodrome

class Context(ssl.SSLContext):
    made = []

    def wrap_bio(self, *arguments, **options):
        self.made.append(super().wrap_bio(*arguments, **options))
        return self.made[0]

async def connect(context):
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(os.environ["SERVER"])
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=theirs)
    address = server.sockets[0].getsockname()
    transport, _ = await loop.create_connection(asyncio.Protocol, *address, ssl=context, server_hostname="localhost")
    return server, address, transport

def client_context(cls):
    context = cls(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(os.environ["AUTHORITY"])
    return context

def litter():
    gc.collect()
    return [bytes([255]) * size for size in range(16, 4096, 16) for _ in range(8)]
"""


def test_a_session_lives_as_long_as_the_transport_needs_it(certificates):
    """`_sslobj` is an attribute like any other."""
    run_in_child(
        """
async def main():
    server, _, transport = await connect(client_context(ssl.SSLContext))
    transport.get_extra_info("ssl_object")._sslobj = None
    waste = litter()
    for _ in range(10):
        transport.write(b"x" * 10_000)
        await asyncio.sleep(0)
    transport.get_write_buffer_size()
    transport.abort()
    server.close()
velodrome.run(main())
""",
        certificates,
    )


def test_a_session_is_lent_once(certificates):
    """A context may answer with an object that it has made for another connection."""
    run_in_child(
        """
async def main():
    context = client_context(Context)
    server, address, transport = await connect(context)
    connecting = asyncio.get_running_loop().create_connection(
        asyncio.Protocol, *address, ssl=context, server_hostname="localhost"
    )
    try:
        other, _ = await asyncio.wait_for(connecting, 1)
    except Exception:
        other = None
    waste = litter()
    for _ in range(10):
        transport.write(b"x" * 10_000)
        await asyncio.sleep(0)
    transport.get_write_buffer_size()
    transport.abort()
    if other:
        other.abort()
    server.close()
velodrome.run(main())
""",
        certificates,
    )


def test_a_client_that_does_not_read_finishes_its_handshake(pair):
    """(With asyncio the server waits until the client reads or writes.)"""

    class Client(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async def use(transport, client, accepted):
        await asyncio.wait_for(accepted, 5)

    pair(use, Client)


def test_a_slow_reader_keeps_no_more_than_its_limit(certificates):
    """What has been read is given back, though something is always left."""
    out = run_in_child(
        """
import resource, threading

SIZE = 48 << 20

class Slow(asyncio.BufferedProtocol):
    def __init__(self):
        self.buffer = memoryview(bytearray(16000))
        self.count = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.transport.pause_reading()
        asyncio.get_running_loop().call_later(0.0005, self.transport.resume_reading)
        self.count += count
        if self.count == SIZE:
            self.done.set_result(None)

    def connection_lost(self, exc):
        if not self.done.done():
            self.done.set_exception(exc or EOFError())

def highest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

async def main():
    loop = asyncio.get_running_loop()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(os.environ["SERVER"])
    import socket
    one, other = socket.socketpair()
    def send():
        with theirs.wrap_socket(other, server_side=True) as sock:
            chunk = bytes(1 << 20)
            for _ in range(SIZE >> 20):
                sock.sendall(chunk)
            sock.recv(1)
    thread = threading.Thread(target=send)
    thread.start()
    context = client_context(ssl.SSLContext)
    transport, protocol = await loop.create_connection(Slow, sock=one, ssl=context, server_hostname="localhost")
    before = highest()
    await protocol.done
    print((highest() - before) >> 10)
    transport.write(b"x")
    transport.abort()
    thread.join()
velodrome.run(main())
""",
        certificates,
    )
    assert int(out) < 16  # MiB; 48 have come


def test_a_paused_protocol_is_resumed_though_the_transport_drains_before_the_upgrade(new_loop, certificates):
    """start_tls exchanges the protocol at once and starts in the next turn: what is told in between counts."""

    class Protocol(asyncio.Protocol):
        calls = ()

        def connection_made(self, transport):
            self.transport = transport

        def pause_writing(self):
            self.calls += ("pause",)

        def resume_writing(self):
            self.calls += ("resume",)

    async def main():
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        with other:
            other.setblocking(False)
            transport, protocol = await loop.create_connection(Protocol, sock=one)
            while not protocol.calls:
                transport.write(bytes(1000))
            await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError):
                while other.recv(1 << 20):
                    pass
            upgrades = []

            def start():
                coroutine = loop.start_tls(
                    transport, protocol, certificates.client_context(), server_hostname="localhost"
                )
                future = coroutine.send(None)  # up to its first wait, in this very callback
                upgrades.append((coroutine, future))

            # In one batch: first this, then the transport, which has become writable.
            loop.call_soon(start)
            for _ in range(10):
                await asyncio.sleep(0.01)
            ((coroutine, _),) = upgrades
            coroutine.close()
            transport.abort()
            return protocol.calls

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main()) == ("pause", "resume")


def test_another_thread_may_ask_for_sizes_while_libssl_works(certificates):
    """libssl's handshake and shutdown run without the interpreter's lock, and so do the object's own methods."""
    run_in_child(
        """
import socket, sys, threading, time

sys.setswitchinterval(1e-6)
looked_at = None
ended = False

def look():
    while not ended:
        transport = looked_at
        if transport is None:
            time.sleep(0)
            continue
        for _ in range(50):
            transport.get_read_buffer_size()
            transport.get_write_buffer_size()

class Server(asyncio.Protocol):
    def connection_made(self, transport):
        pass

async def main():
    global looked_at, ended
    loop = asyncio.get_running_loop()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(os.environ["SERVER"])
    server = await loop.create_server(Server, "127.0.0.1", 0, ssl=theirs)
    context = client_context(ssl.SSLContext)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            plain, protocol = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
            upgrading = asyncio.ensure_future(
                loop.start_tls(plain, protocol, context, server_hostname="localhost")
            )
            await asyncio.sleep(0)
            looked_at = plain.get_protocol()
            transport = await upgrading
            ssl_object = transport.get_extra_info("ssl_object")
            for _ in range(50):
                ssl_object.write(bytes(1000))
                with contextlib.suppress(ssl.SSLWantReadError):
                    ssl_object.read(1)
            transport.close()
            await asyncio.sleep(0)
            looked_at = None
    finally:
        ended = True
        thread.join()
        server.close()

velodrome.run(main())
""",
        certificates,
    )
