"""What can be learnt and agreed about a TLS connection: extra info, ALPN, SNI, sessions, certificates of clients."""

import asyncio
import gc
import socket
import ssl
import sys

import pytest
from checker import Recorder, polled
from tls_checker import SERVER_KINDS, TlsPeer, Wire

# --- extra info -----------------------------------------------------------------------------------


async def test_extra_info_tells_about_the_connection(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder())
    ssl_object = transport.get_extra_info("ssl_object")
    assert isinstance(ssl_object, ssl.SSLObject)
    assert transport.get_extra_info("sslcontext") is ssl_object.context
    assert transport.get_extra_info("cipher") == ssl_object.cipher() == peer.ssl.cipher()
    assert transport.get_extra_info("compression", "default") is None
    assert transport.get_extra_info("peercert") == ssl_object.getpeercert()
    if tls_stream.kind in SERVER_KINDS:
        assert transport.get_extra_info("peercert") is None
    else:
        assert transport.get_extra_info("peercert")["subject"] == ((("commonName", "ecdsa"),),)


async def test_extra_info_has_the_addresses_and_the_socket(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder())
    assert transport.get_extra_info("peername") == peer.sock.getsockname()
    assert transport.get_extra_info("sockname") == peer.sock.getpeername()
    sock = transport.get_extra_info("socket")
    assert isinstance(sock, asyncio.trsock.TransportSocket)
    assert (sock.family, sock.type) == (peer.sock.family, peer.sock.type)
    assert sock.fileno() >= 0


async def test_extra_info_that_is_not_there_is_the_default(loop, tls_stream):
    transport, _, _ = await tls_stream(Recorder())
    assert transport.get_extra_info("nonsense") is None
    assert transport.get_extra_info("nonsense", 5) == 5


async def test_extra_info_is_there_in_connection_made(loop, tls_stream):
    class Protocol(Recorder):
        def connection_made(self, transport):
            self.seen = [transport.get_extra_info(name) for name in ("cipher", "peercert", "ssl_object", "peername")]
            super().connection_made(transport)

    transport, protocol, _ = await tls_stream(Protocol())
    if not tls_stream.kind.startswith("upgraded"):
        assert protocol.seen == [
            transport.get_extra_info(name) for name in ("cipher", "peercert", "ssl_object", "peername")
        ]
        assert protocol.seen[0]


async def test_extra_info_about_tls_stays_after_the_end(loop, tls_stream):
    transport, protocol, _ = await tls_stream(Recorder())
    before = [transport.get_extra_info(name) for name in ("cipher", "peercert", "sslcontext", "ssl_object")]
    transport.abort()
    await protocol.lost
    await asyncio.sleep(0)
    assert before == [transport.get_extra_info(name) for name in ("cipher", "peercert", "sslcontext", "ssl_object")]


async def test_the_ssl_object_is_the_connections_own(loop, tls_stream):
    """Not a copy of what it was after the handshake."""
    transport, protocol, peer = await tls_stream(Recorder())
    ssl_object = transport.get_extra_info("ssl_object")
    assert transport.get_extra_info("ssl_object") is ssl_object
    is_server = tls_stream.kind in SERVER_KINDS
    assert ssl_object.server_side is is_server
    assert ssl_object.server_hostname == (None if is_server else "localhost")
    assert ssl_object.version() == peer.ssl.version() == ("TLSv1.2" if tls_stream.kind == "unix" else "TLSv1.3")
    assert ssl_object.getpeercert(binary_form=True) == (
        None if is_server else ssl.PEM_cert_to_DER_cert(peer_certificate(peer))
    )
    assert ssl_object.selected_alpn_protocol() is None
    assert ssl_object.pending() == 0
    assert ssl_object.session_reused is False
    if tls_stream.kind == "unix":
        assert ssl_object.get_channel_binding("tls-unique") == peer.ssl.get_channel_binding("tls-unique") != b""
    transport.write(b"x")
    assert await peer.receive_exactly(1) == b"x"
    if not is_server:
        await peer.send(b"y")
        await protocol.received(1)
        assert ssl_object.session is not None  # the tickets of TLS 1.3 come before the data


def peer_certificate(peer):
    """The certificate of a server's context, which does not hand it out."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = peer.ssl.context.wrap_bio(incoming, outgoing, server_side=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = context.wrap_bio(outgoing, incoming)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
    return ssl.DER_cert_to_PEM_cert(client.getpeercert(binary_form=True))


async def test_an_upgraded_plain_transport_has_no_tls_in_its_extra_info(loop, certificates):
    one, other = socket.socketpair()
    transport, protocol = await loop.create_connection(Recorder, sock=one)
    for name in ("ssl_object", "sslcontext", "cipher", "peercert"):
        assert transport.get_extra_info(name) is None
    transport.abort()
    await protocol.lost
    other.close()


# --- two contexts ---------------------------------------------------------------------------------


@pytest.fixture
def agree(loop):
    """Connects a client and a server of the loop: both transports."""
    opened = []

    async def connect(server_context, client_context, server_hostname="localhost", protocol_class=Recorder):
        accepted = loop.create_future()

        class Accepted(protocol_class):
            def connection_made(self, transport):
                super().connection_made(transport)
                accepted.set_result(self)

        server = await loop.create_server(Accepted, "127.0.0.1", 0, ssl=server_context)
        opened.append(server)
        _, client = await loop.create_connection(
            protocol_class, *server.sockets[0].getsockname(), ssl=client_context, server_hostname=server_hostname
        )
        opened.append(client)
        opened.append(await accepted)
        return client, accepted.result()

    yield connect

    async def close_all():
        for each in reversed(opened):
            if isinstance(each, Recorder):
                each.transport.abort()
                await each.lost
            else:
                each.close()
                await each.wait_closed()

    loop.run_until_complete(close_all())


def ssl_object(protocol):
    return protocol.transport.get_extra_info("ssl_object")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("key", ["rsa", "ecdsa"])
async def test_versions_and_keys(loop, agree, certificates, version, key):
    server_context = certificates.server_context(getattr(certificates, key))
    server_context.minimum_version = server_context.maximum_version = version
    client, server = await agree(server_context, certificates.client_context())
    client.transport.write(b"hello")
    assert await server.received(5) == b"hello"
    server.transport.write(b"hello")
    assert await client.received(5) == b"hello"
    assert ssl_object(client).version() == ssl_object(server).version() == version.name.replace("_", ".")
    assert client.transport.get_extra_info("peercert")["subject"] == ((("commonName", key),),)


async def test_an_address_may_be_the_name(loop, agree, certificates):
    client, _ = await agree(certificates.server_context(), certificates.client_context(), "127.0.0.1")
    assert ssl_object(client).server_hostname == "127.0.0.1"


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [
        (["h2", "http/1.1"], ["http/1.1", "h2"], "http/1.1"),
        (["h2"], ["h2"], "h2"),
        (["h2"], ["http/1.1"], None),
        (["h2"], None, None),
        (None, ["h2"], None),
    ],
)
async def test_both_sides_know_the_protocol_they_agreed_upon(loop, agree, certificates, ours, theirs, chosen):
    client_context, server_context = certificates.client_context(), certificates.server_context()
    if ours:
        client_context.set_alpn_protocols(ours)
    if theirs:
        server_context.set_alpn_protocols(theirs)
    client, server = await agree(server_context, client_context)
    assert ssl_object(client).selected_alpn_protocol() == ssl_object(server).selected_alpn_protocol() == chosen


async def test_the_name_that_the_client_asks_for_is_told(loop, agree, certificates):
    asked = []
    context = certificates.server_context()
    context.sni_callback = lambda *args: asked.append(args)
    _, server = await agree(context, certificates.client_context())
    ((told, name, original),) = asked
    assert name == "localhost"
    assert original is context
    assert told is ssl_object(server)


async def test_a_client_may_ask_for_no_name(loop, agree, certificates):
    asked = []
    context = certificates.server_context()
    context.sni_callback = lambda ssl_object, name, context: asked.append(name)
    client_context = certificates.client_context()
    client_context.check_hostname = False
    client, _ = await agree(context, client_context, "")
    assert asked == [None]
    assert ssl_object(client).server_hostname is None


async def test_another_context_may_be_chosen_by_name(loop, agree, certificates):
    def choose(ssl_object, name, context):
        ssl_object.context = other

    context = certificates.server_context(certificates.elsewhere)
    context.sni_callback = choose
    other = certificates.server_context(certificates.rsa)
    client, server = await agree(context, certificates.client_context())
    assert client.transport.get_extra_info("peercert")["subject"] == ((("commonName", "rsa"),),)
    assert ssl_object(server).context is other
    assert server.transport.get_extra_info("sslcontext") is context
    client.transport.write(b"hello")
    assert await server.received(5) == b"hello"


async def test_a_name_may_be_refused(loop, certificates):
    context = certificates.server_context()
    context.sni_callback = lambda *args: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    async with await asyncio.start_server(lambda *args: None, "127.0.0.1", 0, ssl=context) as server:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=certificates.client_context(), server_hostname="localhost"
            )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_exception_of_the_sni_callback_ends_the_handshake(loop, certificates):
    def fail(*args):
        raise ZeroDivisionError

    context = certificates.server_context()
    context.sni_callback = fail
    async with await asyncio.start_server(lambda *args: None, "127.0.0.1", 0, ssl=context) as server:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=certificates.client_context(), server_hostname="localhost"
            )
        context.sni_callback = None
        _, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=certificates.client_context(), server_hostname="localhost"
        )
        writer.transport.abort()
    gc.collect()  # so that the exception is ignored here, and not in the next test


async def test_the_secrets_are_logged_where_the_context_says(loop, agree, certificates, tmp_path):
    context = certificates.client_context()
    context.keylog_filename = str(tmp_path / "secrets")
    await agree(certificates.server_context(), context)
    assert "CLIENT_TRAFFIC_SECRET_0 " in (tmp_path / "secrets").read_text()
    context.keylog_filename = None
    gc.collect()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="3.13 and later")
async def test_both_sides_may_share_a_key(loop, agree):
    def client_key(hint):
        return "velodrome", b"secret"

    def server_key(identity):
        asked.append(identity)
        return b"secret"

    asked = []
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for context in (client_context, server_context):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("PSK")
    client_context.set_psk_client_callback(client_key)
    server_context.set_psk_server_callback(server_key)
    client, server = await agree(server_context, client_context)
    client.transport.write(b"hello")
    assert await server.received(5) == b"hello"
    assert asked == ["velodrome"]


# --- sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_resumes_sessions(loop, certificates, version):
    accepted = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.append(transport.get_extra_info("ssl_object").session_reused)
            transport.write(b"x")

    server = await loop.create_server(Protocol, "127.0.0.1", 0, ssl=certificates.server_context())
    context = certificates.client_context()
    context.maximum_version = version
    session = None
    for _ in range(2):
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
            peer = TlsPeer(Wire(loop, sock), context, server_hostname="localhost", session=session)
            await peer.handshake()
            assert await peer.receive_exactly(1) == b"x"
            session = peer.ssl.session
            await peer.unwrap()
    assert peer.ssl.session_reused
    assert accepted == [False, True]
    server.close()
    await server.wait_closed()


class RememberingContext(ssl.SSLContext):
    """A context that has its clients resume a session."""

    session = None

    def wrap_bio(self, incoming, outgoing, server_side=False, server_hostname=None, session=None):
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or self.session)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_context_may_have_clients_resume_a_session(loop, agree, certificates, version):
    class Greeter(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"x")

    server_context = certificates.server_context()
    context = RememberingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates.authority)
    context.maximum_version = version
    client, _ = await agree(server_context, context, protocol_class=Greeter)
    await client.received(1)
    assert not ssl_object(client).session_reused
    context.session = ssl_object(client).session
    client, server = await agree(server_context, context, protocol_class=Greeter)
    await client.received(1)
    assert ssl_object(client).session_reused
    assert ssl_object(server).session_reused


# --- contexts and objects of one's own ------------------------------------------------------------


class CheckedObject(ssl.SSLObject):
    """Has the last word about the handshake, as truststore's does."""

    handshakes = 0
    refuses = False

    def do_handshake(self):
        super().do_handshake()
        type(self).handshakes += 1
        if self.refuses:
            raise ssl.SSLCertVerificationError("refused by its own check")


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_class_of_ones_own_takes_part_in_the_handshake(loop, agree, certificates, side):
    class Checked(CheckedObject):
        pass

    contexts = {"server": certificates.server_context(), "client": certificates.client_context()}
    contexts[side].sslobject_class = Checked
    client, server = await agree(contexts["server"], contexts["client"])
    assert isinstance(ssl_object(client if side == "client" else server), Checked)
    assert Checked.handshakes == 1
    client.transport.write(b"hello")
    assert await server.received(5) == b"hello"


async def test_a_class_of_ones_own_may_refuse_the_peer(loop, certificates):
    class Refusing(CheckedObject):
        refuses = True

    context = certificates.client_context()
    context.sslobject_class = Refusing
    one, other = socket.socketpair()
    other.setblocking(False)
    peer = TlsPeer(Wire(loop, other), certificates.server_context(), server_side=True)
    protocol = Recorder()
    refusal, _ = await asyncio.gather(
        loop.create_connection([protocol].pop, sock=one, ssl=context, server_hostname="localhost"),
        peer.handshake(),
        return_exceptions=True,
    )
    assert isinstance(refusal, ssl.SSLCertVerificationError)
    assert "refused by its own check" in str(refusal)
    await polled(loop)
    assert protocol.calls == []
    assert one.fileno() == -1
    peer.close()


async def test_a_peer_that_is_refused_is_not_told_who_refuses(loop, certificates):
    """What a client has to say last, its certificate with it, is for a server that it trusts."""

    class Refusing(CheckedObject):
        refuses = True

    context = certificates.client_context(certificates.client)
    context.sslobject_class = Refusing
    server_context = certificates.server_context()
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(certificates.authority)
    one, other = socket.socketpair()
    other.setblocking(False)
    peer = TlsPeer(Wire(loop, other), server_context, server_side=True)
    refusal, _ = await asyncio.gather(
        loop.create_connection(Recorder, sock=one, ssl=context, server_hostname="localhost"),
        peer.handshake(),
        return_exceptions=True,
    )
    await polled(loop)
    peer.close()
    assert isinstance(refusal, ssl.SSLCertVerificationError)
    with pytest.raises(ValueError, match="handshake not done yet"):
        peer.ssl.getpeercert()


async def test_a_class_of_ones_own_sees_what_is_read_and_written(loop, agree, certificates):
    class Counting(ssl.SSLObject):
        written = bytearray()
        read_calls = 0

        def write(self, data):
            count = super().write(data)
            self.written.extend(data[:count])
            return count

        def read(self, *args):
            type(self).read_calls += 1
            return super().read(*args)

    context = certificates.client_context()
    context.sslobject_class = Counting
    client, server = await agree(certificates.server_context(), context)
    client.transport.write(b"hello")
    assert await server.received(5) == b"hello"
    server.transport.write(b"hello")
    assert await client.received(5) == b"hello"
    assert Counting.written == b"hello"
    assert Counting.read_calls > 0


class WrappedObject:
    """Something that is used like an SSLObject."""

    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __getattr__(self, name):
        return getattr(self.wrapped, name)


class WrappedContext:
    """Something that is used like a context."""

    def __init__(self, context):
        self.context = context

    def wrap_bio(self, *args, **options):
        return WrappedObject(self.context.wrap_bio(*args, **options))


async def test_what_is_used_like_a_context_need_not_be_one(loop, agree, certificates):
    client, server = await agree(certificates.server_context(), WrappedContext(certificates.client_context()))
    client.transport.write(b"hello")
    assert await server.received(5) == b"hello"
    server.transport.write(b"hello")
    assert await client.received(5) == b"hello"
    assert isinstance(ssl_object(client), WrappedObject)


# --- certificates of clients ----------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mode", [ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED])
async def test_a_server_knows_the_certificate_of_its_client(loop, agree, certificates, version, mode):
    server_context = certificates.server_context()
    server_context.verify_mode = mode
    server_context.load_verify_locations(certificates.authority)
    client_context = certificates.client_context(certificates.client)
    client_context.maximum_version = version
    _, server = await agree(server_context, client_context)
    assert server.transport.get_extra_info("peercert")["subject"] == ((("commonName", "client"),),)


async def test_a_client_need_not_have_the_certificate_that_is_optional(loop, agree, certificates):
    server_context = certificates.server_context()
    server_context.verify_mode = ssl.CERT_OPTIONAL
    server_context.load_verify_locations(certificates.authority)
    client, server = await agree(server_context, certificates.client_context())
    client.transport.write(b"hello")
    assert await server.received(5) == b"hello"
    assert server.transport.get_extra_info("peercert") is None


async def test_a_client_that_does_not_verify_knows_no_certificate(loop, agree, certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client, _ = await agree(certificates.server_context(certificates.stranger), context)
    assert client.transport.get_extra_info("peercert") == {}
    assert ssl_object(client).getpeercert(binary_form=True)


async def test_a_server_may_ask_for_the_certificate_later(loop, agree, certificates):
    server_context = certificates.server_context()
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.post_handshake_auth = True
    server_context.load_verify_locations(certificates.authority)
    client_context = certificates.client_context(certificates.client)
    client_context.post_handshake_auth = True
    # In TLS 1.3, where it is then not asked for in the handshake.
    client, server = await agree(server_context, client_context)
    client.transport.write(b"who am I?")
    await server.received(9)
    assert ssl_object(server).getpeercert() is None
    ssl_object(server).verify_client_post_handshake()
    server.transport.write(b"tell me")
    assert await client.received(7) == b"tell me"
    client.transport.write(b"here it is")
    await server.received(19)
    assert ssl_object(server).getpeercert()["subject"] == ((("commonName", "client"),),)
    assert server.data == b"who am I?here it is"
