"""start_tls: a connection that goes on with TLS, by loop.start_tls and by StreamWriter.start_tls."""

import asyncio
import contextlib
import socket
import ssl
import weakref

import pytest
from checker import LARGE, SMALL_BUFFER, Recorder, connect_stream, polled
from support import gone
from tls_checker import TlsPeer, ViewRecorder, Wire

SIDES = ("client", "server")


@pytest.fixture(params=SIDES)
def upgrade(request, loop, certificates):
    """Makes plain connections and upgrades them; all are closed at the end."""
    is_server = request.param == "server"
    opened = []

    class Upgrade:
        side = request.param
        context = certificates.server_context() if is_server else certificates.client_context()
        names = {} if is_server else {"server_hostname": "localhost"}

        async def connect(self, protocol, kind="tcp"):
            """A connection without TLS: (transport, protocol, the peer as it will be with TLS)."""
            transport, protocol, sock = await connect_stream(loop, kind, protocol)
            context = certificates.client_context() if is_server else certificates.server_context()
            peer = TlsPeer(Wire(loop, sock), context, not is_server, "localhost" if is_server else None)
            opened.append((transport, protocol, peer))
            return transport, protocol, peer

        def start(self, transport, protocol, context=None, **options):
            return loop.start_tls(
                transport, protocol, context or self.context, server_side=is_server, **(self.names | options)
            )

        async def connect_and_start(self, protocol):
            transport, protocol, peer = await self.connect(protocol)
            upgraded, _ = await asyncio.gather(self.start(transport, protocol), peer.handshake())
            protocol.transport = upgraded
            return transport, upgraded, peer

        def forget_all(self):
            opened.clear()

    yield Upgrade()

    async def close_all():
        for transport, _, peer in opened:
            peer.close()
            transport.abort()
        await polled(loop)

    loop.run_until_complete(close_all())


# --- what becomes of the transport and the protocol -----------------------------------------------


async def test_start_tls_returns_another_transport_for_the_same_protocol(loop, upgrade):
    protocol = Recorder()
    plain, upgraded, peer = await upgrade.connect_and_start(protocol)
    assert upgraded is not plain
    assert isinstance(upgraded, asyncio.Transport)
    assert upgraded.get_protocol() is protocol
    assert plain.get_protocol() is not protocol
    assert upgraded.get_extra_info("sslcontext") is upgrade.context
    assert upgraded.get_extra_info("ssl_object").version() == "TLSv1.3"
    for name in ("peername", "sockname", "socket"):
        assert upgraded.get_extra_info(name) == plain.get_extra_info(name)


async def test_connection_made_is_not_repeated(loop, upgrade):
    protocol = Recorder()
    await upgrade.connect_and_start(protocol)
    assert protocol.calls == ["connection_made"]
    assert protocol.made.done()


@pytest.mark.parametrize("protocol_class", [Recorder, ViewRecorder])
async def test_data_of_before_and_after_reach_the_protocol(loop, upgrade, protocol_class):
    plain, protocol, peer = await upgrade.connect(protocol_class())
    plain.write(b"in clear")
    await peer.wire.send(b"in clear too,")
    assert await loop.sock_recv(peer.sock, 8) == b"in clear"
    await protocol.received(13)
    upgraded, _ = await asyncio.gather(upgrade.start(plain, protocol), peer.handshake())
    upgraded.write(b"secret")
    await peer.send(b"secret too")
    assert await peer.receive_exactly(6) == b"secret"
    assert await protocol.received(23) == b"in clear too,secret too"


async def test_data_that_follow_the_handshake_at_once_arrive(loop, upgrade):
    plain, protocol, peer = await upgrade.connect(Recorder())

    async def handshake_and_send():
        await peer.handshake()
        await peer.send(LARGE[:100_000])

    await asyncio.gather(upgrade.start(plain, protocol), handshake_and_send())
    assert await protocol.received(100_000) == LARGE[:100_000]


async def test_a_unix_socket_can_be_upgraded(loop, upgrade):
    plain, protocol, peer = await upgrade.connect(Recorder(), "unix")
    upgraded, _ = await asyncio.gather(upgrade.start(plain, protocol), peer.handshake())
    upgraded.write(b"secret")
    assert await peer.receive_exactly(6) == b"secret"


async def test_a_paused_transport_reads_again(loop, upgrade):
    plain, protocol, peer = await upgrade.connect(Recorder())
    plain.pause_reading()
    upgraded, _ = await asyncio.gather(upgrade.start(plain, protocol), peer.handshake())
    assert upgraded.is_reading()
    await peer.send(b"secret")
    assert await protocol.received(6) == b"secret"


async def test_a_new_transport_has_limits_of_its_own(loop, upgrade):
    plain, protocol, peer = await upgrade.connect(Recorder())
    plain.set_write_buffer_limits(high=10)
    upgraded, _ = await asyncio.gather(upgrade.start(plain, protocol), peer.handshake())
    assert upgraded.get_write_buffer_limits() == (128 * 1024, 512 * 1024)


async def test_closing_the_new_transport_ends_the_connection(loop, upgrade):
    protocol = Recorder()
    plain, upgraded, peer = await upgrade.connect_and_start(protocol)
    upgraded.write(b"goodbye")
    upgraded.close()
    assert await peer.receive_all() == b"goodbye"
    await peer.close_notify()
    assert await protocol.lost is None
    assert plain.is_closing()
    assert protocol.calls.count("connection_lost") == 1


async def test_aborting_the_old_transport_ends_the_connection(loop, upgrade):
    protocol = Recorder()
    plain, upgraded, peer = await upgrade.connect_and_start(protocol)
    plain.abort()
    assert await protocol.lost is None
    assert upgraded.is_closing()
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        await peer.receive()


async def test_the_peer_ends_an_upgraded_connection(loop, upgrade):
    protocol = Recorder()
    _, upgraded, peer = await upgrade.connect_and_start(protocol)
    await peer.unwrap()
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]
    assert upgraded.is_closing()


async def test_an_upgraded_connection_is_freed(loop, upgrade):
    protocol = Recorder()
    plain, upgraded, peer = await upgrade.connect_and_start(protocol)
    upgraded.close()
    await peer.unwrap()
    await protocol.lost
    peer.close()
    await polled(loop)
    watched = [weakref.ref(each) for each in (protocol, plain, upgraded)]
    upgrade.forget_all()
    del protocol, plain, upgraded, peer
    assert gone(*watched)


# --- failures -------------------------------------------------------------------------------------


async def test_a_handshake_that_fails_is_raised_and_ends_the_connection(loop, upgrade):
    plain, protocol, peer = await upgrade.connect(Recorder())
    await peer.wire.send(b"garbage that is no record")
    with pytest.raises(ssl.SSLError) as caught:
        await upgrade.start(plain, protocol)
    assert plain.is_closing()
    assert await protocol.lost is caught.value
    assert protocol.calls == ["connection_made", "connection_lost"]
    await polled(loop)
    assert plain.get_extra_info("socket").fileno() == -1


async def test_a_peer_that_leaves_during_the_handshake_is_an_error(loop, upgrade):
    plain, protocol, peer = await upgrade.connect(Recorder())
    peer.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        await upgrade.start(plain, protocol)
    assert plain.is_closing()
    await polled(loop)
    assert protocol.calls.count("connection_lost") == 1


async def test_the_certificate_of_another_host_is_refused(loop, certificates):
    protocol = Recorder()
    plain, _, sock = await connect_stream(loop, "tcp", protocol)
    peer = TlsPeer(Wire(loop, sock), certificates.server_context(certificates.elsewhere), server_side=True)
    outcome, _ = await asyncio.gather(
        loop.start_tls(plain, protocol, certificates.client_context(), server_hostname="localhost"),
        peer.handshake(),
        return_exceptions=True,
    )
    assert isinstance(outcome, ssl.SSLCertVerificationError)
    assert outcome.verify_code == 62
    assert await protocol.lost is outcome
    peer.close()


async def test_the_handshake_has_a_time_limit(loop, upgrade):
    plain, protocol, peer = await upgrade.connect(Recorder())
    with pytest.raises(ConnectionAbortedError) as caught:
        await upgrade.start(plain, protocol, ssl_handshake_timeout=0.01)
    assert str(caught.value) == "SSL handshake is taking longer than 0.01 seconds: aborting the connection"
    assert plain.is_closing()
    await polled(loop)
    assert plain.get_extra_info("socket").fileno() == -1
    assert protocol.calls.count("connection_lost") <= 1


@pytest.mark.parametrize("at_once", [True, False], ids=["before it began", "while it waits"])
async def test_start_tls_that_is_cancelled_closes_the_transport(loop, upgrade, at_once):
    plain, protocol, peer = await upgrade.connect(Recorder())
    starting = loop.create_task(upgrade.start(plain, protocol))
    await asyncio.sleep(0)
    if not at_once:
        await polled(loop)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert plain.is_closing()
    while await loop.sock_recv(peer.sock, 65536):
        pass
    await polled(loop)
    assert plain.get_extra_info("socket").fileno() == -1
    assert protocol.calls.count("connection_lost") <= 1


@pytest.mark.parametrize("method", ["close", "abort"])
async def test_ending_the_old_transport_during_the_handshake_ends_start_tls(loop, upgrade, method):
    """By an error; or asyncio returns no transport."""
    plain, protocol, peer = await upgrade.connect(Recorder())
    starting = loop.create_task(upgrade.start(plain, protocol))
    await polled(loop)
    assert not starting.done()
    getattr(plain, method)()
    (outcome,) = await asyncio.gather(starting, return_exceptions=True)
    assert outcome is None or isinstance(outcome, ConnectionError)
    while await loop.sock_recv(peer.sock, 65536):
        pass
    await polled(loop)
    assert plain.get_extra_info("socket").fileno() == -1
    assert protocol.calls.count("connection_lost") <= 1


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [None, True, "context", object()], ids=lambda context: type(context).__name__)
async def test_the_context_must_be_one(loop, upgrade, context):
    plain, protocol, peer = await upgrade.connect(Recorder())
    with pytest.raises(TypeError) as caught:
        await loop.start_tls(plain, protocol, context)
    assert str(caught.value) == f"sslcontext is expected to be an instance of ssl.SSLContext, got {context!r}"
    plain.write(b"still open")
    assert await loop.sock_recv(peer.sock, 10) == b"still open"


async def test_a_transport_of_another_kind_is_refused(loop, certificates):
    transport = asyncio.Transport()
    with pytest.raises(TypeError) as caught:
        await loop.start_tls(transport, Recorder(), certificates.client_context(), server_hostname="localhost")
    assert str(caught.value) == f"transport {transport!r} is not supported by start_tls()"


@pytest.mark.parametrize("option", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
@pytest.mark.parametrize("value", [0, -1, -0.5])
async def test_time_limits_must_be_positive(loop, upgrade, option, value):
    plain, protocol, peer = await upgrade.connect(Recorder())
    with pytest.raises(ValueError) as caught:
        await upgrade.start(plain, protocol, **{option: value})
    assert str(caught.value) == f"{option} should be a positive number, got {value}"
    plain.write(b"still open")
    assert await loop.sock_recv(peer.sock, 10) == b"still open"
    await peer.wire.send(b"still read")
    assert await protocol.received(10) == b"still read"


async def test_a_client_that_checks_names_needs_one(loop, certificates):
    context = certificates.client_context()
    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    except ValueError as exc:
        message = str(exc)
    else:
        pytest.skip("this Python takes no name for no wish to check one")
    protocol = Recorder()
    plain, _, sock = await connect_stream(loop, "tcp", protocol)
    with sock, pytest.raises(ValueError, match=f"^{message}$"):
        await loop.start_tls(plain, protocol, context)
    plain.abort()
    await protocol.lost


# --- streams --------------------------------------------------------------------------------------


@pytest.fixture
def serve(loop):
    """Starts a server without TLS for a handler and connects to it: (reader, writer). The kernel holds little."""
    opened = []
    handlers = []

    async def connect(handler):
        async def keep(reader, writer):
            opened.append(writer)
            handlers.append(asyncio.current_task())
            await handler(reader, writer)

        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        server = await asyncio.start_server(keep, sock=listener)
        opened.append(server)
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        reader, writer = await asyncio.open_connection(sock=sock)
        opened.append(writer)
        return reader, writer

    connect.handlers = handlers
    yield connect

    async def close_all():
        for each in reversed(opened):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()
        await asyncio.gather(*handlers)

    loop.run_until_complete(close_all())


async def test_streams_upgrade_on_both_sides(loop, serve, certificates):
    async def handler(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"ready\n")
        plain = writer.transport
        await writer.start_tls(certificates.server_context())
        assert writer.transport is not plain
        assert writer.get_extra_info("cipher")
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    reader, writer = await serve(handler)
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"ready\n"
    plain = writer.transport
    context = certificates.client_context()
    assert await writer.start_tls(context, server_hostname="localhost") is None
    assert writer.transport is not plain
    assert writer.get_extra_info("sslcontext") is context
    assert writer.get_extra_info("peercert")["subject"] == ((("commonName", "ecdsa"),),)
    writer.write(LARGE[: 1 << 20])
    assert await reader.readexactly(1 << 20) == LARGE[: 1 << 20]
    assert writer.can_write_eof() is False
    writer.close()
    await writer.wait_closed()


async def test_the_limit_of_a_reader_holds_the_peer_back_after_start_tls(loop, serve, certificates):
    async def handler(reader, writer):
        await writer.start_tls(certificates.server_context())
        for start in range(0, len(LARGE), 1 << 20):
            writer.write(LARGE[start : start + (1 << 20)])
            await writer.drain()
        writer.close()

    reader, writer = await serve(handler)
    await writer.start_tls(certificates.client_context(), server_hostname="localhost")
    for _ in range(20):
        await polled(loop)
    assert not serve.handlers[0].done()
    assert await reader.readexactly(len(LARGE)) == LARGE


async def test_drain_waits_after_start_tls(loop, serve, certificates):
    async def handler(reader, writer):
        await writer.start_tls(certificates.server_context())
        await go.wait()
        received.append(await reader.readexactly(len(LARGE) + (1 << 20)))

    go = asyncio.Event()
    received = []
    reader, writer = await serve(handler)
    await writer.start_tls(certificates.client_context(), server_hostname="localhost")
    writer.write(LARGE)
    writer.write(LARGE[: 1 << 20])
    draining = loop.create_task(writer.drain())
    await polled(loop)
    waited = not draining.done()
    go.set()
    await draining
    assert waited
    while not received:
        await polled(loop)
    assert received == [LARGE + LARGE[: 1 << 20]]


async def test_the_end_reaches_a_reader_after_start_tls(loop, serve, certificates):
    async def handler(reader, writer):
        await writer.start_tls(certificates.server_context())
        writer.write(b"goodbye")
        writer.close()

    reader, writer = await serve(handler)
    await writer.start_tls(certificates.client_context(), server_hostname="localhost")
    assert await reader.read() == b"goodbye"


async def test_a_failed_upgrade_is_raised_on_both_sides(loop, serve, certificates):
    failures = []

    async def handler(reader, writer):
        try:
            await writer.start_tls(certificates.server_context(certificates.stranger))
        except OSError as exc:
            failures.append(exc)

    reader, writer = await serve(handler)
    with pytest.raises(ssl.SSLCertVerificationError):
        await writer.start_tls(certificates.client_context(), server_hostname="localhost")
    await asyncio.wait(serve.handlers)
    assert len(failures) == 1
    assert writer.is_closing()


# --- TLS in TLS -----------------------------------------------------------------------------------


@pytest.fixture
def nested(loop, upgrade, certificates):
    """Connects (outer transport, inner transport, inner peer) of a protocol."""

    async def connect(protocol):
        _, outer, outer_peer = await upgrade.connect_and_start(protocol)
        if upgrade.side == "server":
            peer = TlsPeer(outer_peer, certificates.client_context(), server_hostname="localhost")
        else:
            peer = TlsPeer(outer_peer, certificates.server_context(certificates.rsa), server_side=True)
        inner, _ = await asyncio.gather(upgrade.start(outer, protocol), peer.handshake())
        protocol.transport = inner
        return outer, inner, peer

    return connect


@pytest.mark.parametrize("protocol_class", [Recorder, ViewRecorder])
async def test_tls_runs_in_tls(loop, nested, protocol_class):
    protocol = protocol_class()
    outer, inner, peer = await nested(protocol)
    assert inner is not outer
    assert inner.get_protocol() is protocol
    inner.write(b"very secret")
    assert await peer.receive_exactly(11) == b"very secret"
    await peer.send(b"as secret")
    assert await protocol.received(9) == b"as secret"
    assert protocol.calls[0] == "connection_made"
    assert protocol.calls.count("connection_made") == 1


async def test_much_goes_both_ways_in_tls_in_tls(loop, nested):
    protocol = Recorder()
    _, inner, peer = await nested(protocol)
    much = LARGE[: 2 << 20]
    inner.write(much)
    _, sent, received = await asyncio.gather(
        peer.send(much), peer.receive_exactly(len(much)), protocol.received(len(much))
    )
    assert sent == received == much


async def test_extra_info_of_tls_in_tls_is_of_the_inner_one(loop, nested):
    outer, inner, peer = await nested(Recorder())
    assert inner.get_extra_info("ssl_object") is not outer.get_extra_info("ssl_object")
    assert inner.get_extra_info("peername") == outer.get_extra_info("peername")
    assert inner.get_extra_info("socket") is outer.get_extra_info("socket")


async def test_closing_tls_in_tls_announces_the_end_of_both(loop, nested):
    protocol = Recorder()
    _, inner, peer = await nested(protocol)
    inner.write(b"goodbye")
    inner.close()
    assert await peer.receive_all() == b"goodbye"
    await peer.close_notify()
    assert await peer.wire.receive_all() == b""
    await peer.wire.close_notify()
    assert await protocol.lost is None
    assert protocol.calls.count("connection_lost") == 1


async def test_the_peer_ends_tls_in_tls(loop, nested):
    protocol = Recorder()
    _, inner, peer = await nested(protocol)
    await peer.unwrap()
    await peer.wire.unwrap()
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


async def test_aborting_tls_in_tls_ends_the_connection(loop, nested):
    protocol = Recorder()
    outer, inner, peer = await nested(protocol)
    inner.abort()
    assert await protocol.lost is None
    assert outer.is_closing() and inner.is_closing()


async def test_pausing_tls_in_tls_holds_the_data_back(loop, nested):
    protocol = Recorder()
    _, inner, peer = await nested(protocol)
    inner.pause_reading()
    await peer.send(b"held")
    await polled(loop)
    assert protocol.data == b""
    inner.resume_reading()
    assert await protocol.received(4) == b"held"


async def test_streams_upgrade_twice(loop, serve, certificates):
    """A client of HTTPS through a proxy that is spoken to by TLS."""

    async def handler(reader, writer):
        await writer.start_tls(certificates.server_context())
        assert await reader.readline() == b"CONNECT\n"
        writer.write(b"200\n")
        await writer.start_tls(certificates.server_context(certificates.rsa))
        writer.write(await reader.readexactly(6))
        writer.close()

    reader, writer = await serve(handler)
    await writer.start_tls(certificates.client_context(), server_hostname="localhost")
    writer.write(b"CONNECT\n")
    assert await reader.readline() == b"200\n"
    await writer.start_tls(certificates.client_context(), server_hostname="localhost")
    assert writer.get_extra_info("peercert")["subject"] == ((("commonName", "rsa"),),)
    writer.write(b"secret")
    assert await reader.read() == b"secret"
