"""Arguments about TLS, with asyncio's messages; and files over TLS."""

import asyncio
import contextlib
import io
import socket
import ssl

import pytest
from checker import LARGE, SMALL_BUFFER, Recorder, polled
from tls_checker import ViewRecorder

CONTENT = LARGE[: 1 << 20]  # of a file
TIME_LIMITS = ("ssl_handshake_timeout", "ssl_shutdown_timeout")


async def never(reader, writer):
    writer.close()


@contextlib.contextmanager
def refused(kind, message):
    with pytest.raises(kind) as caught:
        yield
    assert str(caught.value) == message


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


# --- clients --------------------------------------------------------------------------------------


async def test_a_name_needs_tls(loop):
    with refused(ValueError, "server_hostname is only meaningful with ssl"):
        await loop.create_connection(Recorder, "127.0.0.1", 1, server_hostname="localhost")


@pytest.mark.parametrize("tls", [True, "context"])
async def test_a_socket_needs_a_name(loop, certificates, pair, tls):
    with refused(ValueError, "You must set server_hostname when using ssl without a host"):
        await loop.create_connection(
            Recorder, sock=pair[0], ssl=tls is True or certificates.client_context()
        )


@pytest.mark.parametrize("option", TIME_LIMITS)
async def test_time_limits_need_tls(loop, pair, option):
    with refused(ValueError, f"{option} is only meaningful with ssl"):
        await loop.create_connection(Recorder, "127.0.0.1", 1, **{option: 1})
    with refused(ValueError, f"{option} is only meaningful with ssl"):
        await loop.create_server(Recorder, "127.0.0.1", 0, **{option: 1})
    with refused(ValueError, f"{option} is only meaningful with ssl"):
        await loop.connect_accepted_socket(Recorder, pair[0], **{option: 1})


@pytest.mark.parametrize("option", TIME_LIMITS)
async def test_time_limits_of_unix_sockets_need_tls(loop, tmp_path, option):
    path = str(tmp_path / "socket")
    with refused(ValueError, f"{option} is only meaningful with ssl"):
        await loop.create_unix_connection(Recorder, path, **{option: 1})
    with refused(ValueError, f"{option} is only meaningful with ssl"):
        await loop.create_unix_server(Recorder, path, **{option: 1})


async def test_a_client_of_a_unix_socket_needs_a_name(loop, certificates, tmp_path):
    path = str(tmp_path / "socket")
    with refused(ValueError, "you have to pass server_hostname when using ssl"):
        await loop.create_unix_connection(Recorder, path, ssl=certificates.client_context())
    with refused(ValueError, "server_hostname is only meaningful with ssl"):
        await loop.create_unix_connection(Recorder, path, server_hostname="localhost")


@pytest.mark.parametrize("option", TIME_LIMITS)
@pytest.mark.parametrize("value", [0, -1, -0.5])
@pytest.mark.parametrize("side", ["client", "server"])
async def test_time_limits_must_be_positive(loop, certificates, pair, side, option, value):
    with refused(ValueError, f"{option} should be a positive number, got {value}"):
        if side == "client":
            await loop.create_connection(
                Recorder,
                sock=pair[0],
                ssl=certificates.client_context(),
                server_hostname="localhost",
                **{option: value},
            )
        else:
            await loop.connect_accepted_socket(
                Recorder, pair[0], ssl=certificates.server_context(), **{option: value}
            )


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_tls_socket_is_refused(loop, certificates, pair, side):
    with certificates.server_context().wrap_socket(pair[0], server_side=True, do_handshake_on_connect=False) as sock:
        with refused(TypeError, "Socket cannot be of type SSLSocket"):
            if side == "client":
                await loop.create_connection(
                    Recorder, sock=sock, ssl=certificates.client_context(), server_hostname="localhost"
                )
            else:
                await loop.create_server(Recorder, sock=sock, ssl=certificates.server_context())


async def test_a_context_of_servers_is_none_of_clients(loop, certificates, pair):
    with pytest.raises(ssl.SSLError, match="Cannot create a client socket with a PROTOCOL_TLS_SERVER context"):
        await loop.create_connection(
            Recorder, sock=pair[0], ssl=certificates.server_context(), server_hostname="localhost"
        )


async def test_a_context_of_clients_is_none_of_servers(loop, certificates, pair):
    context = certificates.client_context()
    context.check_hostname = False
    with pytest.raises(ssl.SSLError, match="Cannot create a server socket with a PROTOCOL_TLS_CLIENT context"):
        await loop.connect_accepted_socket(Recorder, pair[0], ssl=context)


@pytest.mark.parametrize("name", [".localhost", ".", "a\0b"])
async def test_what_is_no_name_is_refused(loop, certificates, pair, name):
    with pytest.raises((ValueError, TypeError)):
        await loop.create_connection(
            Recorder, sock=pair[0], ssl=certificates.client_context(), server_hostname=name
        )


@pytest.mark.parametrize("no_tls", [None, False, 0])
async def test_without_tls_there_is_none(loop, no_tls):
    async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
        transport, protocol = await loop.create_connection(
            Recorder, *server.sockets[0].getsockname(), ssl=no_tls
        )
        assert transport.get_extra_info("ssl_object") is None
        await protocol.lost


async def test_true_trusts_whom_the_system_trusts(loop, certificates, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    async with await asyncio.start_server(never, "127.0.0.1", 0, ssl=certificates.server_context()) as server:
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=True, server_hostname="localhost"
        )
        assert await reader.read() == b""
        context = writer.get_extra_info("ssl_object").context
        assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
        writer.close()
        await writer.wait_closed()


async def test_true_trusts_nobody_else(loop, certificates, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.stranger))
    async with await asyncio.start_server(never, "127.0.0.1", 0, ssl=certificates.server_context()) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=True, server_hostname="localhost")
    await polled(loop)


async def test_the_host_is_the_name_unless_another_is_given(loop, certificates):
    async with await asyncio.start_server(never, "127.0.0.1", 0, ssl=certificates.server_context()) as server:
        _, port = server.sockets[0].getsockname()
        for options in ({}, {"server_hostname": None}):
            reader, writer = await asyncio.open_connection(
                "localhost", port, ssl=certificates.client_context(), family=socket.AF_INET, **options
            )
            assert writer.get_extra_info("ssl_object").server_hostname == "localhost"
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()


# --- servers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [True, False])
async def test_a_server_needs_a_context(loop, tmp_path, tls):
    with refused(TypeError, "ssl argument must be an SSLContext or None"):
        await loop.create_server(Recorder, "127.0.0.1", 0, ssl=tls)
    with refused(TypeError, "ssl argument must be an SSLContext or None"):
        await loop.create_unix_server(Recorder, str(tmp_path / "socket"), ssl=tls)


async def test_an_accepted_socket_needs_a_context(loop, pair):
    with refused(ValueError, "Server side SSL needs a valid SSLContext"):
        await loop.connect_accepted_socket(Recorder, pair[0], ssl=True)


async def test_unix_streams_have_tls(loop, certificates, tmp_path):
    async def handler(reader, writer):
        writer.write(await reader.readexactly(5))
        writer.close()

    path = str(tmp_path / "socket")
    async with await asyncio.start_unix_server(handler, path, ssl=certificates.server_context()):
        reader, writer = await asyncio.open_unix_connection(
            path, ssl=certificates.client_context(), server_hostname="localhost"
        )
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()


async def test_an_accepted_socket_is_served(loop, certificates, pair):
    one, other = pair
    (server, served), (client, connected) = await asyncio.gather(
        loop.connect_accepted_socket(Recorder, one, ssl=certificates.server_context()),
        loop.create_connection(
            Recorder, sock=other, ssl=certificates.client_context(), server_hostname="localhost"
        ),
    )
    client.write(b"hello")
    assert await served.received(5) == b"hello"
    client.close()
    await asyncio.gather(served.lost, connected.lost)
    assert server.is_closing()


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture(params=["regular", "in memory"])
def file(request, tmp_path):
    if request.param == "in memory":
        yield io.BytesIO(CONTENT)
        return
    (tmp_path / "file").write_bytes(CONTENT)
    with open(tmp_path / "file", "rb") as file:
        yield file


@pytest.mark.parametrize(("offset", "count"), [(0, None), (1000, None), (0, 100_000), (5000, 1), (0, 1 << 30)])
async def test_a_file_is_sent(loop, tls_stream, file, offset, count):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    expected = CONTENT[offset:][:count]
    transport.write(b"before,")
    sent, received = await asyncio.gather(
        loop.sendfile(transport, file, offset, count), peer.receive_exactly(7 + len(expected))
    )
    assert received == b"before," + expected
    assert sent == len(expected)
    assert file.tell() == offset + len(expected)
    assert transport.get_protocol() is protocol
    transport.write(b"after")
    assert await peer.receive_exactly(5) == b"after"


async def test_nothing_of_a_file_is_sent(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder())
    assert await loop.sendfile(transport, io.BytesIO()) == 0
    transport.write(b"after")
    assert await peer.receive_exactly(5) == b"after"


async def test_data_that_come_while_a_file_is_sent_are_read(loop, tls_stream, file):
    """After it, or meanwhile: asyncio holds them back."""
    transport, protocol, peer = await tls_stream(ViewRecorder(), receive_buffer=SMALL_BUFFER)
    sending = loop.create_task(loop.sendfile(transport, file))
    await peer.send(b"hello")
    assert await peer.receive_exactly(len(CONTENT)) == CONTENT
    assert await sending == len(CONTENT)
    assert await protocol.received(5) == b"hello"


async def test_the_system_cannot_send_a_file_over_tls(loop, tls_stream, file):
    transport, _, _ = await tls_stream(Recorder())
    with refused(
        RuntimeError, f"fallback is disabled and native sendfile is not supported for transport {transport!r}"
    ):
        await loop.sendfile(transport, file, fallback=False)


async def test_a_file_is_not_sent_over_a_closing_transport(loop, tls_stream, file):
    transport, _, _ = await tls_stream(Recorder())
    transport.close()
    with refused(RuntimeError, "Transport is closing"):
        await loop.sendfile(transport, file)


async def test_sending_a_file_ends_when_the_peer_leaves(loop, tls_stream, file):
    """With an error, if something was held; asyncio may not notice that what it writes goes nowhere."""
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    sending = loop.create_task(loop.sendfile(transport, file))
    await peer.receive_exactly(1000)
    peer.close()
    with contextlib.suppress(ConnectionError):
        assert await sending == len(CONTENT)
    await protocol.lost
