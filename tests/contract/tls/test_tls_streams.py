"""asyncio's own streams over TLS: open_connection and start_server with ssl=."""

import asyncio
import concurrent.futures
import ssl

import pytest
from checker import Recorder, polled

PAYLOAD = bytes(range(256)) * 10_000


@pytest.fixture
def contexts(certificates):
    return certificates.server_context(certificates.rsa), certificates.client_context()


@pytest.fixture
def connect(loop, contexts):
    """Connects a client to a server with the given handler: (reader, writer)."""
    server_context, client_context = contexts
    opened = []

    async def connect(handler, context=client_context, **options):
        server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=server_context)
        opened.append(server)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=context, server_hostname="localhost", **options
        )
        opened.append(writer)
        return reader, writer

    yield connect

    async def close_all():
        for each in reversed(opened):
            each.close()
            await each.wait_closed()

    loop.run_until_complete(close_all())


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_an_echo_over_tls(loop, connect):
    reader, writer = await connect(echo)
    writer.write(b"secret")
    assert await reader.readexactly(6) == b"secret"


async def test_much_goes_both_ways(loop, connect):
    reader, writer = await connect(echo)
    writer.write(PAYLOAD)
    assert await reader.readexactly(len(PAYLOAD)) == PAYLOAD


async def test_the_end_of_the_server_is_the_end_of_the_stream(loop, connect):
    async def handler(reader, writer):
        writer.write(b"goodbye")
        writer.close()

    reader, _ = await connect(handler)
    assert await reader.read() == b"goodbye"


async def test_extra_info_tells_about_the_tls_connection(loop, connect, contexts):
    _, writer = await connect(echo)
    assert writer.get_extra_info("sslcontext") is contexts[1]
    assert isinstance(writer.get_extra_info("ssl_object"), ssl.SSLObject)
    assert writer.get_extra_info("cipher")
    assert writer.get_extra_info("peercert")["subject"]
    assert writer.get_extra_info("peername")


async def test_a_certificate_that_is_not_trusted_is_an_error(loop, connect):
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect(echo, ssl.create_default_context())
    await polled(loop)


async def test_ssl_is_never_ignored(loop, contexts):
    """A client that does not speak TLS gets nothing from a TLS server."""
    made = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            made.append(transport)

    server = await loop.create_server(Protocol, "127.0.0.1", 0, ssl=contexts[0])
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    received = await reader.read()
    assert not received.startswith(b"HTTP")
    assert made == []
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_start_tls_upgrades_a_connection(loop, contexts):
    server_context, client_context = contexts

    async def handler(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"ready\n")
        await writer.start_tls(server_context)
        writer.write(await reader.readline())
        writer.close()

    async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"ready\n"
        await writer.start_tls(client_context, server_hostname="localhost")
        writer.write(b"secret\n")
        assert await reader.readline() == b"secret\n"
        writer.close()
        await writer.wait_closed()


async def test_many_connections_at_once(loop, connect, contexts):
    async def client():
        reader, writer = await connect(echo)
        writer.write(b"x" * 1000)
        assert await reader.readexactly(1000) == b"x" * 1000

    await asyncio.gather(*(client() for _ in range(5)))


def test_loops_in_several_threads_may_share_their_contexts(new_loop, contexts):
    server_context, client_context = contexts

    async def client(address):
        reader, writer = await asyncio.open_connection(*address, ssl=client_context, server_hostname="localhost")
        writer.write(PAYLOAD[:100_000])
        received = await reader.readexactly(100_000)
        writer.close()
        await writer.wait_closed()
        return received == PAYLOAD[:100_000]

    async def main():
        async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context) as server:
            address = server.sockets[0].getsockname()
            return [await client(address) for _ in range(10)]

    def run():
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(main())

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        results = [threads.submit(run) for _ in range(4)]
    assert all(all(result.result()) for result in results)
