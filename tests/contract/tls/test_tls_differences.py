"""What asyncio's TLS does not do well, each on the versions named: velodrome's own is to do better.

docs/differences.md says so, too.
"""

import asyncio
import inspect
import socket
import ssl

import pytest
from checker import LARGE, Recorder, connect_stream, polled
from tls_checker import TlsPeer, Wire

# From 3.13.12 and 3.14.3 on asyncio gives TLS what a server's StreamReader has already read (gh-142352).
MOVES_WHAT_IS_READ = "_buffer" in inspect.getsource(asyncio.BaseEventLoop.start_tls)


@pytest.mark.differs("asyncio loses what the reader has read", when=not MOVES_WHAT_IS_READ, run=False)
@pytest.mark.parametrize("size", ["one packet", "a hello in two", "byte by byte"])
async def test_a_hello_that_a_server_has_already_read_is_not_lost(loop, certificates, size):
    """A client that need not wait for an answer sends its request for TLS and its first message together."""

    async def handler(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        if size == "one packet":
            await polled(loop)
        try:
            # It is met only where the hello is lost.
            await writer.start_tls(certificates.server_context(), ssl_handshake_timeout=2)
            writer.write(await reader.readline())
        finally:
            writer.close()

    async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
            peer = TlsPeer(Wire(loop, sock), certificates.client_context(), server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                peer.ssl.do_handshake()
            first = b"STARTTLS\n" + peer.outgoing.read()
            if size == "one packet":
                pieces = [first]
            elif size == "a hello in two":
                pieces = [first[:50], first[50:]]
            else:
                pieces = [first[position : position + 1] for position in range(len(first))]
            for piece in pieces:
                await peer.wire.send(piece)
                await polled(loop)
            await peer.handshake()
            await peer.send(b"secret\n")
            assert await peer.receive_all() == b"secret\n"


@pytest.mark.differs("asyncio's TLS has not heard that writing is paused, and reports an AssertionError")
@pytest.mark.parametrize("side", ["client", "server"])
async def test_what_is_held_when_tls_starts_is_sent_before(loop, certificates, reports, side):
    names = {"server_hostname": "localhost"}
    contexts = certificates.client_context(), certificates.server_context()
    plain, protocol, sock = await connect_stream(loop, "tcp", Recorder())
    if side == "client":
        peer = TlsPeer(Wire(loop, sock), contexts[1], server_side=True)
        starting = loop.start_tls(plain, protocol, contexts[0], **names)
    else:
        peer = TlsPeer(Wire(loop, sock), contexts[0], **names)
        starting = loop.start_tls(plain, protocol, contexts[1], server_side=True)
    plain.write(LARGE)
    starting = loop.create_task(starting)
    clear = bytearray()
    while len(clear) < len(LARGE):
        clear += await loop.sock_recv(sock, len(LARGE) - len(clear))
    assert clear == LARGE
    await peer.handshake()
    transport = await starting
    transport.write(b"secret")
    assert await peer.receive_exactly(6) == b"secret"
    peer.close()
    await protocol.lost
    reported = list(reports)
    reports.clear()
    assert not reported
