"""Handshakes that fail: what either side hears of it, and that nothing stays behind."""

import asyncio
import contextlib
import gc
import socket
import ssl
import struct
import weakref

import pytest
from checker import Recorder, polled
from support import gone
from tls_checker import TlsPeer, Wire

HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
GARBAGE = bytes(range(7, 255)) * 3
LINGER_NOT = struct.pack("ii", 1, 0)  # close() resets the connection


def client_hello(certificates):
    """A genuine first message."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


# --- clients --------------------------------------------------------------------------------------


class Unmade(Recorder):
    """Must not hear anything of a connection that never was."""


@pytest.fixture
def failing(loop, certificates):
    """Connects a client of which the handshake is to fail to a peer on a socket pair: the exception."""
    watched = []

    async def fail(peer, context=None, server_hostname="localhost", **options):
        """`peer` is a coroutine function of the peer's socket."""
        protocol = Unmade()
        watched.append(weakref.ref(protocol))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            other, _ = listener.accept()
        with other:
            other.setblocking(False)
            connecting = loop.create_connection(
                lambda: protocol,
                sock=ours,
                ssl=context or certificates.client_context(),
                server_hostname=server_hostname,
                **options,
            )
            results = await asyncio.gather(connecting, peer(other), return_exceptions=True)
        await polled(loop)
        assert protocol.calls == []
        assert ours.fileno() == -1
        exception = results[0]
        assert isinstance(exception, BaseException), exception
        if isinstance(results[1], AssertionError):
            raise results[1]
        return exception

    yield fail
    gc.collect()
    assert gone(*watched)


def serving(loop, context):
    """A peer that serves TLS, and may well fail."""

    async def serve(sock):
        peer = TlsPeer(Wire(loop, sock), context, server_side=True)
        await peer.handshake()
        await peer.receive()

    return serve


async def test_a_certificate_that_nobody_vouches_for_is_refused(loop, failing, certificates):
    exc = await failing(serving(loop, certificates.server_context(certificates.stranger)))
    assert type(exc) is ssl.SSLCertVerificationError
    assert exc.verify_code == 18
    assert exc.verify_message in ("self-signed certificate", "self signed certificate")
    assert exc.reason == "CERTIFICATE_VERIFY_FAILED"


async def test_an_authority_that_is_not_known_is_refused(loop, failing, certificates):
    exc = await failing(
        serving(loop, certificates.server_context()), ssl.create_default_context(cafile=certificates.stranger)
    )
    assert type(exc) is ssl.SSLCertVerificationError
    assert exc.verify_code == 20
    assert exc.verify_message == "unable to get local issuer certificate"


async def test_the_certificate_of_another_host_is_refused(loop, failing, certificates):
    exc = await failing(serving(loop, certificates.server_context(certificates.elsewhere)))
    assert type(exc) is ssl.SSLCertVerificationError
    assert exc.verify_code == 62
    assert exc.verify_message == "Hostname mismatch, certificate is not valid for 'localhost'."


async def test_the_name_that_was_asked_for_must_be_the_certificates(loop, failing, certificates):
    exc = await failing(serving(loop, certificates.server_context()), server_hostname="elsewhere.example")
    assert exc.verify_message == "Hostname mismatch, certificate is not valid for 'elsewhere.example'."


async def test_an_address_that_is_not_in_the_certificate_is_refused(loop, failing, certificates):
    exc = await failing(serving(loop, certificates.server_context()), server_hostname="127.0.0.2")
    assert exc.verify_code == 64
    assert exc.verify_message == "IP address mismatch, certificate is not valid for '127.0.0.2'."


async def test_the_peer_of_a_client_that_refuses_sees_the_end(loop, failing, certificates):
    """With an alert that says why, or without: asyncio sends none."""
    seen = []

    async def serve(sock):
        peer = TlsPeer(Wire(loop, sock), certificates.server_context(certificates.stranger), server_side=True)
        try:
            await peer.handshake()
        except ssl.SSLError as exc:
            seen.append(exc.reason)

    await failing(serve)
    (reason,) = seen
    assert reason == "UNEXPECTED_EOF_WHILE_READING" or reason.endswith("ALERT_UNKNOWN_CA")


async def test_no_version_in_common_is_an_error(loop, failing, certificates):
    old = certificates.server_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    new = certificates.client_context()
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    exc = await failing(serving(loop, old), new)
    assert type(exc) is ssl.SSLError
    assert exc.reason.endswith("ALERT_PROTOCOL_VERSION")


async def test_no_cipher_in_common_is_an_error(loop, failing, certificates):
    context = certificates.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    exc = await failing(serving(loop, certificates.server_context(certificates.ecdsa)), context)
    assert type(exc) is ssl.SSLError
    assert exc.reason.endswith("ALERT_HANDSHAKE_FAILURE")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", GARBAGE], ids=["http", "garbage"])
async def test_a_server_that_speaks_something_else_is_an_error(loop, failing, answer):
    async def serve(sock):
        await loop.sock_recv(sock, 65536)
        await loop.sock_sendall(sock, answer)
        await loop.sock_recv(sock, 65536)

    exc = await failing(serve)
    assert type(exc) is ssl.SSLError


async def test_a_server_that_leaves_at_once_is_an_error(loop, failing):
    async def serve(sock):
        await loop.sock_recv(sock, 65536)
        sock.close()

    assert type(await failing(serve)) is ConnectionResetError


async def test_a_server_that_only_finishes_is_an_error(loop, failing):
    async def serve(sock):
        sock.shutdown(socket.SHUT_WR)
        while await loop.sock_recv(sock, 65536):
            pass

    assert type(await failing(serve)) is ConnectionResetError


async def test_a_server_that_resets_the_connection_is_an_error(loop, failing):
    async def serve(sock):
        await loop.sock_recv(sock, 65536)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        sock.close()

    assert type(await failing(serve)) is ConnectionResetError


async def test_a_server_that_leaves_in_the_middle_is_an_error(loop, failing, certificates):
    async def serve(sock):
        peer = TlsPeer(Wire(loop, sock), certificates.server_context(), server_side=True)
        await peer.feed()
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.ssl.do_handshake()
        await peer.wire.send(peer.outgoing.read()[:200])
        sock.shutdown(socket.SHUT_WR)
        await peer.wire.receive()

    assert type(await failing(serve)) is ConnectionResetError


@pytest.mark.parametrize("limit", [0.01, 0.0625])
async def test_a_server_that_says_nothing_has_a_time_limit(loop, failing, limit):
    async def serve(sock):
        while await loop.sock_recv(sock, 65536):
            pass

    exc = await failing(serve, ssl_handshake_timeout=limit)
    assert type(exc) is ConnectionAbortedError
    assert str(exc) == f"SSL handshake is taking longer than {limit} seconds: aborting the connection"


async def test_connecting_can_be_cancelled_during_the_handshake(loop, failing):
    connecting = asyncio.current_task()

    async def serve(sock):
        await loop.sock_recv(sock, 65536)
        (task,) = asyncio.all_tasks(loop) - {connecting, asyncio.current_task()}
        task.cancel()
        while await loop.sock_recv(sock, 65536):
            pass

    assert type(await failing(serve)) is asyncio.CancelledError


async def test_the_time_limit_does_not_outlive_the_handshake(loop, certificates):
    async def handler(reader, writer):
        writer.write(await reader.readexactly(1))
        await reader.read()
        writer.close()

    async with await asyncio.start_server(
        handler, "127.0.0.1", 0, ssl=certificates.server_context(), ssl_handshake_timeout=0.5
    ) as server:
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(),
            ssl=certificates.client_context(),
            server_hostname="localhost",
            ssl_handshake_timeout=0.5,
        )
        await asyncio.sleep(0.51)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()
        await writer.wait_closed()


# --- servers --------------------------------------------------------------------------------------


class BadClients:
    """Clients that a TLS server cannot serve, each on a fresh connection; `error` is what the server hears of it."""

    def __init__(self, loop, certificates):
        self.loop = loop
        self.certificates = certificates

    async def plain_http(self, sock):
        await self.loop.sock_sendall(sock, HTTP)

    async def garbage(self, sock):
        await self.loop.sock_sendall(sock, GARBAGE)

    async def half_a_hello(self, sock):
        hello = client_hello(self.certificates)
        await self.loop.sock_sendall(sock, hello[: len(hello) // 2])
        sock.shutdown(socket.SHUT_WR)

    async def a_hello_and_no_more(self, sock):
        await self.loop.sock_sendall(sock, client_hello(self.certificates))
        sock.shutdown(socket.SHUT_WR)

    async def nothing(self, sock):
        sock.shutdown(socket.SHUT_WR)

    async def a_reset(self, sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        sock.close()

    async def a_reset_after_the_hello(self, sock):
        await self.loop.sock_sendall(sock, client_hello(self.certificates))
        await self.loop.sock_recv(sock, 100)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        sock.close()

    async def silence(self, sock):
        """The time limit ends it."""

    async def no_cipher_in_common(self, sock):
        context = self.certificates.client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
        await self.handshake(sock, context)

    async def distrust(self, sock):
        await self.handshake(sock, ssl.create_default_context(cafile=self.certificates.stranger))

    async def handshake(self, sock, context):
        peer = TlsPeer(Wire(self.loop, sock), context, server_hostname="localhost")
        with pytest.raises(ssl.SSLError):
            await peer.handshake()

    ERRORS = {
        "plain_http": ssl.SSLError,
        "garbage": ssl.SSLError,
        "half_a_hello": ConnectionResetError,
        "a_hello_and_no_more": ConnectionResetError,
        "nothing": ConnectionResetError,
        "a_reset": ConnectionResetError,
        "a_reset_after_the_hello": ConnectionResetError,
        "silence": ConnectionAbortedError,
        "no_cipher_in_common": ssl.SSLError,
        "distrust": ssl.SSLError,
    }


@pytest.fixture
def serve(loop, certificates):
    """Starts a TLS server: a function that meets it with one of the bad clients, and one that is served."""
    made = []
    protocols = []

    class Protocol(asyncio.Protocol):
        def __init__(self):
            protocols.append(weakref.ref(self))

        def connection_made(self, transport):
            made.append(self)
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

        def connection_lost(self, exc):
            made.remove(self)

    async def start(context=None, **options):
        server = await loop.create_server(
            Protocol, "127.0.0.1", 0, ssl=context or certificates.server_context(), **options
        )
        opened.append(server)
        address = server.sockets[0].getsockname()

        async def meet(name):
            before = len(protocols)
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                await getattr(BadClients(loop, certificates), name)(sock)
                if sock.fileno() != -1:
                    with contextlib.suppress(ConnectionResetError):
                        while await loop.sock_recv(sock, 65536):
                            pass
            while len(protocols) == before:  # a reset may come before the server has looked
                await polled(loop)
            await polled(loop)

        async def good_client(context=None):
            reader, writer = await asyncio.open_connection(
                *address, ssl=context or certificates.client_context(), server_hostname="localhost"
            )
            try:
                writer.write(b"echo")
                assert await reader.readexactly(4) == b"echo"
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

        return meet, good_client

    start.protocols = protocols
    start.made = made
    opened = []
    yield start

    async def close_all():
        for server in opened:
            server.close()
            await server.wait_closed()

    loop.run_until_complete(close_all())


@pytest.mark.parametrize("name", BadClients.ERRORS)
async def test_a_server_goes_on_after(loop, serve, name):
    meet, good_client = await serve(ssl_handshake_timeout=0.01 if name == "silence" else None)
    await meet(name)
    assert serve.made == []
    assert gone(serve.protocols[0])
    if name != "silence":  # the good client may need more than that limit
        await good_client()


@pytest.mark.parametrize("name", BadClients.ERRORS)
async def test_debug_mode_tells_of(loop, serve, reports, name):
    loop.set_debug(True)
    loop.slow_callback_duration = 60
    meet, _ = await serve(ssl_handshake_timeout=0.01 if name == "silence" else None)
    await meet(name)
    context = reports.take()
    assert context["message"] == "Error on transport creation for incoming connection"
    assert isinstance(context["exception"], BadClients.ERRORS[name])
    if name == "silence":
        assert str(context["exception"]) == (
            "SSL handshake is taking longer than 0.01 seconds: aborting the connection"
        )


async def test_a_server_meets_many_bad_clients_at_once(loop, serve):
    meet, good_client = await serve()
    names = [name for name in BadClients.ERRORS if name != "silence"] * 3
    await asyncio.gather(*map(meet, names), *(good_client() for _ in range(5)))
    assert len(serve.protocols) == len(names) + 5
    while serve.made:
        await polled(loop)
    assert gone(*serve.protocols)


async def test_a_server_answers_what_is_not_tls_with_an_alert_or_nothing(loop, certificates):
    server = await loop.create_server(Unmade, "127.0.0.1", 0, ssl=certificates.server_context())
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(HTTP)
    answer = await reader.read()
    assert answer == b"" or answer[0] == 21
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_without_the_certificate_that_is_asked_for_is_refused(loop, serve, certificates, version):
    context = certificates.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.authority)
    meet, good_client = await serve(context)
    anonymous, known = certificates.client_context(), certificates.client_context(certificates.client)
    anonymous.maximum_version = known.maximum_version = version
    # In TLS 1.3 the client may be done before it hears of it.
    with pytest.raises((ssl.SSLError, ConnectionResetError, asyncio.IncompleteReadError)):
        await good_client(anonymous)
    assert serve.made == []
    await good_client(known)
    await polled(loop)


async def test_a_client_that_is_refused_by_tls_1_3_hears_of_it_in_connection_lost(loop, certificates):
    """Its own handshake is over when the server looks at the certificate that it has not sent."""
    context = certificates.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.authority)
    one, other = socket.socketpair()
    other.setblocking(False)
    peer = TlsPeer(Wire(loop, other), context, server_side=True)
    (transport, protocol), refusal = await asyncio.gather(
        loop.create_connection(
            Recorder, sock=one, ssl=certificates.client_context(), server_hostname="localhost"
        ),
        peer.handshake(),
        return_exceptions=True,
    )
    assert refusal.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    exc = await protocol.lost
    assert isinstance(exc, ssl.SSLError)
    assert exc.reason.endswith("ALERT_CERTIFICATE_REQUIRED")
    assert protocol.calls == ["connection_made", "connection_lost"]
    peer.close()


async def test_a_server_can_be_closed_while_a_client_says_nothing(loop, certificates):
    server = await loop.create_server(
        Unmade, "127.0.0.1", 0, ssl=certificates.server_context(), ssl_handshake_timeout=0.05
    )
    with socket.create_connection(server.sockets[0].getsockname()) as sock:
        sock.setblocking(False)
        await polled(loop)
        server.close()
        assert await loop.sock_recv(sock, 1) == b""  # at the time limit
        await server.wait_closed()


@pytest.mark.skipif(not hasattr(asyncio.AbstractServer, "abort_clients"), reason="3.13 and later")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
async def test_a_server_can_drop_clients_in_the_middle_of_their_handshake(loop, certificates, method):
    server = await loop.create_server(Unmade, "127.0.0.1", 0, ssl=certificates.server_context())
    with socket.create_connection(server.sockets[0].getsockname()) as sock:
        sock.setblocking(False)
        await loop.sock_sendall(sock, client_hello(certificates))
        assert await loop.sock_recv(sock, 100)
        server.close()
        getattr(server, method)()
        with contextlib.suppress(ConnectionResetError):
            while await loop.sock_recv(sock, 65536):
                pass
        await server.wait_closed()


@pytest.mark.differs("asyncio leaves the socket to the garbage collector", run=False)
async def test_a_factory_that_raises_ends_that_connection_only(loop, certificates, reports):
    class Protocol(Recorder):
        def __init__(self):
            super().__init__()
            attempts.append(self)
            if len(attempts) == 1:
                raise ZeroDivisionError

    attempts = []
    server = await loop.create_server(Protocol, "127.0.0.1", 0, ssl=certificates.server_context())
    address = server.sockets[0].getsockname()
    options = {"ssl": certificates.client_context(), "server_hostname": "localhost"}
    with pytest.raises(ConnectionResetError):
        await asyncio.open_connection(*address, **options)
    _, writer = await asyncio.open_connection(*address, **options)
    writer.write(b"hello")
    assert await attempts[1].received(5) == b"hello"
    writer.close()
    await writer.wait_closed()
    await attempts[1].lost
    server.close()
    await server.wait_closed()
    reports.clear()  # whether it is told outside debug mode is not said


@pytest.mark.parametrize("kind", ["client", "server"])
async def test_a_connected_socket_whose_handshake_fails_is_closed(loop, certificates, kind):
    """connect_accepted_socket() and create_connection(sock=) own what they were given."""
    one, other = socket.socketpair()
    other.setblocking(False)
    with other:
        await loop.sock_sendall(other, GARBAGE)
        with pytest.raises(ssl.SSLError):
            if kind == "client":
                await loop.create_connection(
                    Unmade, sock=one, ssl=certificates.client_context(), server_hostname="localhost"
                )
            else:
                await loop.connect_accepted_socket(Unmade, one, ssl=certificates.server_context())
        await polled(loop)
        assert one.fileno() == -1
