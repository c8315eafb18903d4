"""Promises of transports that asyncio's TLS breaks, and velodrome's own keeps."""

import asyncio
import inspect
import socket
import ssl

import pytest
from checker import LARGE, BufferedRecorder, Recorder, connect_stream, polled
from tls_checker import TlsPeer, ViewRecorder, Wire, connect_tls

# From 3.13.12 and 3.14.3 on asyncio gives TLS what a server's StreamReader has already read (gh-142352).
MOVES_WHAT_IS_READ = "_buffer" in inspect.getsource(asyncio.BaseEventLoop.start_tls)
# From 3.12.8 and 3.13.1 on (gh-118950).
ASKS_BELOW = hasattr(asyncio.sslproto.SSLProtocol, "_is_transport_closing")


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


@pytest.mark.differs("asyncio sends the end of its handshake only when it writes or reads something")
async def test_a_client_that_does_not_read_at_first_finishes_its_handshake(loop, certificates):
    """The server cannot begin before."""

    class Protocol(Recorder):
        def connection_made(self, transport):
            transport.pause_reading()
            super().connection_made(transport)

    one, other = socket.socketpair()
    other.setblocking(False)
    peer = TlsPeer(Wire(loop, other), certificates.server_context(), server_side=True)
    protocol = Protocol()
    shaking = loop.create_task(peer.handshake())
    transport, _ = await loop.create_connection(
        lambda: protocol, sock=one, ssl=certificates.client_context(), server_hostname="localhost"
    )
    for _ in range(10):
        await polled(loop)
    is_done = shaking.done()
    transport.resume_reading()
    await shaking
    await peer.send(b"data")
    assert await protocol.received(4) == b"data"
    transport.abort()
    await protocol.lost
    peer.close()
    assert is_done


@pytest.mark.differs("asyncio reads the second record into a copy of the buffer")
async def test_a_buffer_that_is_no_view_loses_nothing(loop, certificates):
    transport, protocol, peer = await connect_tls(loop, "client", BufferedRecorder(1000), certificates)
    for number in range(10):
        peer.ssl.write(b"%05d" % number)
    await peer.flush()
    received = await protocol.received(50)
    transport.abort()
    await protocol.lost
    peer.close()
    assert received == b"".join(b"%05d" % number for number in range(10))


@pytest.mark.differs("asyncio drops what it has read when the next record cannot be")
@pytest.mark.parametrize("protocol_class", [Recorder, ViewRecorder])
async def test_what_came_before_a_changed_record_is_delivered(loop, certificates, protocol_class):
    transport, protocol, peer = await connect_tls(loop, "client", protocol_class(), certificates)
    peer.ssl.write(b"good")
    good = peer.outgoing.read()
    peer.ssl.write(b"changed")
    record = bytearray(peer.outgoing.read())
    record[-1] ^= 1
    await peer.wire.send(good + record)
    exc = await protocol.lost
    peer.close()
    assert isinstance(exc, ssl.SSLError)
    assert protocol.data == b"good"


@pytest.mark.differs("asyncio raises AttributeError")
@pytest.mark.parametrize(
    "method", ["is_reading", "get_write_buffer_size", "get_write_buffer_limits", "get_protocol", "pause_reading"]
)
async def test_a_transport_that_was_closed_twice_answers_harmlessly(loop, certificates, method):
    transport, protocol, peer = await connect_tls(loop, "client", Recorder(), certificates)
    transport.close()
    transport.close()
    await peer.unwrap()
    await protocol.lost
    peer.close()
    getattr(transport, method)()


@pytest.mark.differs("asyncio raises AttributeError")
async def test_a_transport_that_was_closed_twice_ignores_what_is_written(loop, certificates):
    transport, protocol, peer = await connect_tls(loop, "client", Recorder(), certificates)
    transport.close()
    transport.close()
    await peer.unwrap()
    await protocol.lost
    peer.close()
    transport.write(b"x")
    transport.writelines([b"x"])
    assert transport.get_extra_info("nonsense", 5) == 5


@pytest.mark.differs("asyncio does nothing: the peer has to say something, or the shutdown's time limit is met")
async def test_abort_after_closing_twice_ends_the_connection(loop, certificates):
    transport, protocol, peer = await connect_tls(loop, "client", Recorder(), certificates, ssl_shutdown_timeout=0.05)
    transport.close()
    transport.close()
    transport.abort()
    exc = await protocol.lost
    peer.close()
    await asyncio.sleep(0)
    assert exc is None


@pytest.mark.differs("asyncio pauses an empty transport, until something else happens")
async def test_a_limit_of_zero_does_not_pause_while_nothing_is_held(loop, certificates):
    transport, protocol, peer = await connect_tls(loop, "client", Recorder(), certificates)
    transport.set_write_buffer_limits(high=0)
    calls = list(protocol.calls)
    transport.abort()
    await protocol.lost
    peer.close()
    assert calls == ["connection_made"]


@pytest.mark.differs("asyncio does not count what waits in the transport below, however much it is")
async def test_one_large_write_is_held_and_pauses_writing(loop, certificates):
    transport, protocol, peer = await connect_tls(loop, "unix", Recorder(), certificates)
    transport.write(LARGE)
    size, calls = transport.get_write_buffer_size(), list(protocol.calls)
    transport.abort()
    await protocol.lost
    peer.close()
    assert size > 1 << 20
    assert calls[-1] == "pause_writing"


@pytest.mark.differs("asyncio does not ask the transport below", when=not ASKS_BELOW)
async def test_a_transport_is_closing_when_the_one_below_is(loop, certificates):
    plain, protocol, sock = await connect_stream(loop, "tcp", Recorder())
    peer = TlsPeer(Wire(loop, sock), certificates.server_context(), server_side=True)
    upgrading = loop.start_tls(plain, protocol, certificates.client_context(), server_hostname="localhost")
    transport, _ = await asyncio.gather(upgrading, peer.handshake())
    before = transport.is_closing()
    plain.close()
    after = transport.is_closing()
    await protocol.lost
    peer.close()
    assert (before, after) == (False, True)
