"""What does the TLS of a connection: the interpreter's libssl, or its `ssl` module where that is not possible."""

import asyncio
import gc
import os
import ssl
import subprocess
import sys

import pytest
from velodrome import _native

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
                transports.append(loop._make_tls_transport(Echo(), context, server_hostname="localhost"))
    finally:
        gc.set_threshold(*thresholds)
    for transport in transports:
        transport.abort()
    loop.close()
