"""create_server and the Server it returns."""

import asyncio
import contextlib
import contextvars
import errno
import gc
import socket
import sys

import pytest
from checker import Recorder, polled, receive_exactly

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="wait_closed() waits for connections since 3.12")
since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")


@pytest.fixture
def accepted():
    """The protocols of the connections that came in."""
    return []


@pytest.fixture
def factory(accepted):
    class Accepted(Recorder):
        def __init__(self):
            super().__init__()
            accepted.append(self)

    return Accepted


async def client_of(loop, server, accepted):
    """A client's socket and the protocol that the server made for it."""
    count = len(accepted)
    client = socket.create_connection(server.sockets[0].getsockname()[:2])
    client.setblocking(False)
    while len(accepted) == count:
        await asyncio.sleep(0)
    await accepted[-1].made
    return client, accepted[-1]


async def close(server, *clients):
    for client in clients:
        client.close()
    server.close()
    await server.wait_closed()


def addresses(server):
    return sorted(sock.getsockname()[0] for sock in server.sockets)


# --- where it listens -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
        (["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
        (("127.0.0.1", "127.0.0.2"), ["127.0.0.1", "127.0.0.2"]),
        (["127.0.0.1", "127.0.0.1"], ["127.0.0.1"]),
        (None, ["0.0.0.0", "::"]),
        ("", ["0.0.0.0", "::"]),
        ("0.0.0.0", ["0.0.0.0"]),
        ("::", ["::"]),
    ],
)
async def test_the_host_says_where(loop, factory, host, expected):
    # A port of its own for each address would do, but port 0 is asked for all of them.
    server = await loop.create_server(factory, host, 0)
    assert addresses(server) == expected
    await close(server)


async def test_port_zero_is_a_free_port(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    other = await loop.create_server(factory, "127.0.0.1", 0)
    ports = [each.sockets[0].getsockname()[1] for each in (server, other)]
    assert 0 not in ports and ports[0] != ports[1]
    await close(server)
    await close(other)


async def test_a_host_alone_means_port_zero(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1")
    assert server.sockets[0].getsockname()[1] != 0
    await close(server)


@pytest.mark.parametrize(("family", "expected"), [(socket.AF_INET, ["0.0.0.0"]), (socket.AF_INET6, ["::"])])
async def test_the_family_narrows_it_down(loop, factory, family, expected):
    server = await loop.create_server(factory, None, 0, family=family)
    assert addresses(server) == expected
    await close(server)


async def test_a_dual_stack_server_serves_both_families(loop, factory, accepted):
    server = await loop.create_server(factory, None, 0)
    for sock in server.sockets:
        host = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}[sock.family]
        with socket.create_connection((host, sock.getsockname()[1])) as client:
            count = len(accepted)
            while len(accepted) == count:
                await asyncio.sleep(0)
            assert (await accepted[-1].made).get_extra_info("peername") == client.getsockname()
        await accepted[-1].lost
    await close(server)


async def test_the_two_families_do_not_share_a_socket(loop, factory):
    server = await loop.create_server(factory, "::1", 0)
    assert server.sockets[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    await close(server)


@pytest.mark.parametrize("port", [70000, -1])
async def test_a_port_out_of_range_is_refused(loop, factory, port):
    with pytest.raises(OverflowError):
        await loop.create_server(factory, "127.0.0.1", port)


async def test_an_address_in_use_is_an_error(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    with pytest.raises(OSError, match=r"error while attempting to bind on address \('127.0.0.1', \d+\)") as caught:
        await loop.create_server(factory, *server.sockets[0].getsockname())
    assert caught.value.errno == errno.EADDRINUSE
    await close(server)


async def test_a_name_that_does_not_resolve_is_an_error(loop, factory):
    with pytest.raises(socket.gaierror):
        await loop.create_server(factory, "not an address", 0, flags=socket.AI_NUMERICHOST)


async def test_an_address_that_is_not_ours_is_an_error(loop, factory):
    with pytest.raises(OSError):
        await loop.create_server(factory, "192.0.2.1", 0)


async def test_reuse_port_lets_two_servers_share_a_port(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0, reuse_port=True)
    other = await loop.create_server(factory, *server.sockets[0].getsockname(), reuse_port=True)
    assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
    await close(server)
    await close(other)


@pytest.mark.parametrize(("option", "expected"), [(None, 1), (True, 1), (False, 0)])
async def test_the_address_is_reused_unless_told_otherwise(loop, factory, option, expected):
    server = await loop.create_server(factory, "127.0.0.1", 0, reuse_address=option)
    assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == expected
    await close(server)


@since_3_13
@pytest.mark.parametrize(("option", "expected"), [(None, 0), (True, 1)])
async def test_keep_alive_is_set_on_request(loop, factory, accepted, option, expected):
    server = await loop.create_server(factory, "127.0.0.1", 0, keep_alive=option)
    assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == expected
    client, protocol = await client_of(loop, server, accepted)
    accepted_socket = protocol.transport.get_extra_info("socket")
    assert accepted_socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == expected
    protocol.transport.abort()
    await protocol.lost
    await close(server, client)


async def test_a_socket_of_our_own_is_used(loop, factory, accepted):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = await loop.create_server(factory, sock=sock)
    assert server.sockets[0].fileno() == sock.fileno()
    assert sock.gettimeout() == 0
    client, protocol = await client_of(loop, server, accepted)
    await close(server, client)
    await protocol.lost
    assert sock.fileno() == -1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "127.0.0.1", "port": 0, "sock": True}, "host/port and sock can not be specified at the same time"),
        ({}, "Neither host/port nor sock were specified"),
        ({"ssl_handshake_timeout": 1, "port": 0}, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"ssl_shutdown_timeout": 1, "port": 0}, "ssl_shutdown_timeout is only meaningful with ssl"),
    ],
)
async def test_arguments_that_make_no_sense_are_refused(loop, factory, options, message):
    with socket.socket() as sock:
        if "sock" in options:
            options = options | {"sock": sock}
        with pytest.raises(ValueError, match=f"^{message}$"):
            await loop.create_server(factory, **options)


async def test_ssl_must_be_a_context(loop, factory):
    with pytest.raises(TypeError, match="ssl argument must be an SSLContext or None"):
        await loop.create_server(factory, "127.0.0.1", 0, ssl=True)


async def test_a_datagram_socket_is_refused(loop, factory):
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="A Stream Socket was expected"):
        await loop.create_server(factory, sock=sock)


# --- serving --------------------------------------------------------------------------------------


async def test_each_client_gets_a_protocol_of_its_own(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    pairs = [await client_of(loop, server, accepted) for _ in range(5)]
    assert len(set(accepted)) == 5
    for number, (client, protocol) in enumerate(pairs):
        client.send(b"%d" % number)
        assert await protocol.received(1) == b"%d" % number
    await close(server, *(client for client, _ in pairs))
    await asyncio.gather(*(protocol.lost for protocol in accepted))


async def test_many_clients_at_once_are_all_served(loop):
    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=200)
    address = server.sockets[0].getsockname()

    async def client(number):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"%d\n" % number)
        answer = await reader.read()
        writer.close()
        return answer

    answers = await asyncio.gather(*(client(number) for number in range(200)))
    assert answers == [b"%d\n" % number for number in range(200)]
    await close(server)


async def test_clients_that_waited_before_the_server_looked_are_served_at_once(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0, start_serving=False, backlog=50)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.sockets[0].getsockname())
    await server.start_serving()
    clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(20)]
    while not accepted:
        await asyncio.sleep(0)
    assert len(accepted) == 20  # all in one turn
    await close(server, *clients)
    await asyncio.gather(*(protocol.lost for protocol in accepted))


async def test_more_clients_than_the_backlog_are_served_in_turn(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=1)
    clients = []
    for _ in range(20):
        clients.append(socket.socket())
        clients[-1].setblocking(False)
        await loop.sock_connect(clients[-1], server.sockets[0].getsockname())
    while len(accepted) < 20:
        await asyncio.sleep(0)
    await close(server, *clients)
    await asyncio.gather(*(protocol.lost for protocol in accepted))


async def test_the_accepted_transport_knows_the_addresses(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    client, protocol = await client_of(loop, server, accepted)
    transport = protocol.transport
    assert transport.get_extra_info("peername") == client.getsockname()
    assert transport.get_extra_info("sockname") == client.getpeername() == server.sockets[0].getsockname()
    await close(server, client)
    await protocol.lost


async def test_an_ipv6_peer_has_an_address_of_four(loop, factory, accepted):
    server = await loop.create_server(factory, "::1", 0)
    client, protocol = await client_of(loop, server, accepted)
    assert protocol.transport.get_extra_info("peername") == client.getsockname()
    assert len(client.getsockname()) == 4
    await close(server, client)
    await protocol.lost


async def test_accepted_sockets_are_not_inherited(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    client, protocol = await client_of(loop, server, accepted)
    assert protocol.transport.get_extra_info("socket").get_inheritable() is False
    await close(server, client)
    await protocol.lost


async def test_start_serving_false_waits(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0, start_serving=False)
    assert not server.is_serving()
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()
    client, protocol = await client_of(loop, server, accepted)
    await close(server, client)
    await protocol.lost


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@pytest.mark.differs("a server whose making is cancelled at the very end goes on listening")
async def test_a_server_that_nobody_gets_does_not_listen(loop, factory, family):
    make = loop.create_server if family == socket.AF_INET else loop.create_unix_server
    with socket.socket(family) as sock:
        sock.bind(("127.0.0.1", 0) if family == socket.AF_INET else "")
        making = loop.create_task(make(factory, sock=sock))
        while not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            await asyncio.sleep(0)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        is_open = sock.fileno() != -1
        if is_open:
            loop.remove_reader(sock)
        assert not is_open


async def test_serve_forever_serves_until_it_is_cancelled(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0, start_serving=False)
    serving = loop.create_task(server.serve_forever())
    await asyncio.sleep(0)
    assert server.is_serving()
    client, protocol = await client_of(loop, server, accepted)
    client.close()
    await protocol.lost
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not server.is_serving()
    assert server.sockets == ()


async def test_serve_forever_twice_is_an_error(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    serving = loop.create_task(server.serve_forever())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="is already being awaited on serve_forever"):
        await server.serve_forever()
    serving.cancel()
    await asyncio.wait([serving])


async def test_serve_forever_of_a_closed_server_is_an_error(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    await close(server)
    with pytest.raises(RuntimeError, match="is closed"):
        await server.serve_forever()


async def test_close_cancels_serve_forever(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    serving = loop.create_task(server.serve_forever())
    await asyncio.sleep(0)
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await serving


# --- the server object ----------------------------------------------------------------------------


async def test_a_server_is_an_asyncio_server(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    assert isinstance(server, asyncio.AbstractServer)
    assert server.get_loop() is loop
    assert server.is_serving()
    assert repr(server.sockets) in repr(server)
    await close(server)


async def test_the_sockets_of_a_server_cannot_accept(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    (sock,) = server.sockets
    assert type(sock) is asyncio.trsock.TransportSocket
    assert not hasattr(sock, "accept")
    assert isinstance(server.sockets, tuple)
    await close(server)


async def test_close_stops_serving(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    server.close()
    assert not server.is_serving()
    assert server.sockets == ()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    server.close()
    await server.wait_closed()


async def test_close_leaves_the_connections_open(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    client, protocol = await client_of(loop, server, accepted)
    server.close()
    await polled(loop)
    client.send(b"still here")
    assert await protocol.received(10) == b"still here"
    protocol.transport.write(b"so am I")
    assert await receive_exactly(loop, client, 7) == b"so am I"
    client.close()
    await protocol.lost
    await server.wait_closed()


@since_3_12
async def test_wait_closed_waits_for_the_last_connection(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    clients = [(await client_of(loop, server, accepted))[0] for _ in range(2)]
    server.close()
    waiting = loop.create_task(server.wait_closed())
    await polled(loop)
    clients[0].close()
    await accepted[0].lost
    await polled(loop)
    assert not waiting.done()
    clients[1].close()
    await accepted[1].lost
    await waiting


@since_3_12
async def test_wait_closed_waits_for_close(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    waiting = loop.create_task(server.wait_closed())
    await polled(loop)
    assert not waiting.done()
    server.close()
    await waiting


async def test_wait_closed_twice_returns(loop, factory):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    server.close()
    await server.wait_closed()
    await server.wait_closed()


async def test_async_with_closes_the_server(loop, factory):
    async with await loop.create_server(factory, "127.0.0.1", 0) as server:
        assert server.is_serving()
    assert not server.is_serving()
    assert server.sockets == ()


@since_3_13
async def test_close_clients_closes_the_connections(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    pairs = [await client_of(loop, server, accepted) for _ in range(3)]
    for _, protocol in pairs:
        protocol.transport.write(b"goodbye")
    server.close()
    server.close_clients()
    await server.wait_closed()
    for client, protocol in pairs:
        assert await protocol.lost is None
        assert await receive_exactly(loop, client, 7) == b"goodbye"
        assert await loop.sock_recv(client, 1) == b""
        client.close()


@since_3_13
async def test_abort_clients_aborts_the_connections(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    client, protocol = await client_of(loop, server, accepted)
    while not protocol.transport.get_write_buffer_size():
        protocol.transport.write(bytes(1 << 20))
    server.close()
    server.abort_clients()
    await server.wait_closed()
    assert await protocol.lost is None
    client.close()


@since_3_13
async def test_close_clients_of_an_open_server_leaves_it_serving(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    client, protocol = await client_of(loop, server, accepted)
    server.close_clients()
    await protocol.lost
    client.close()
    client, protocol = await client_of(loop, server, accepted)
    await close(server, client)


@since_3_13
async def test_cancelling_serve_forever_closes_the_clients(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    serving = loop.create_task(server.serve_forever())
    client, protocol = await client_of(loop, server, accepted)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert await protocol.lost is None
    client.close()


async def test_close_inside_connection_made_is_harmless(loop, accepted):
    class Closing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            server.close()
            accepted.append(self)

    server = await loop.create_server(Closing, "127.0.0.1", 0)
    client, protocol = await client_of(loop, server, accepted)
    client.close()
    await protocol.lost
    await server.wait_closed()


async def test_a_server_that_nobody_holds_goes_on(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    sock = server.sockets[0]._sock
    del server
    gc.collect()
    with socket.create_connection(address):
        while not accepted:
            await asyncio.sleep(0)
        await accepted[0].made
    await accepted[0].lost
    loop._stop_serving(sock)


# --- contexts -------------------------------------------------------------------------------------

variable = contextvars.ContextVar("variable", default="default")


class Numbering(Recorder):
    """Counts its own calls in the context variable, and notes what it found there."""

    def note(self, call):
        super().note((call, variable.get()))
        variable.set(call)


async def test_the_context_of_create_server_is_seen_by_the_connections(loop, accepted):
    class Factory(Numbering):
        def __init__(self):
            super().__init__()
            accepted.append(self)
            self.note("factory")

    token = variable.set("created")
    server = await loop.create_server(Factory, "127.0.0.1", 0)
    variable.reset(token)
    client, protocol = await client_of(loop, server, accepted)
    await close(server, client)
    await protocol.lost
    assert protocol.calls[0] == ("factory", "created")
    assert variable.get() == "default"


@pytest.mark.skipif(sys.version_info < (3, 15), reason="a connection has a context of its own since 3.15")
async def test_a_connection_has_a_context_of_its_own(loop, accepted):
    class Factory(Numbering):
        def __init__(self):
            super().__init__()
            accepted.append(self)

    server = await loop.create_server(Factory, "127.0.0.1", 0)
    pairs = [await client_of(loop, server, accepted) for _ in range(2)]
    for client, protocol in pairs:
        client.send(b"x")
        await protocol.received(1)
    await close(server, *(client for client, _ in pairs))
    for _, protocol in pairs:
        await protocol.lost
        assert protocol.calls == [
            ("connection_made", "default"),
            ("data_received", "connection_made"),
            ("eof_received", "data_received"),
            ("connection_lost", "eof_received"),
        ]


@pytest.mark.skipif(sys.version_info < (3, 15), reason="a connection has a context of its own since 3.15")
async def test_a_connection_of_ours_has_a_copy_of_our_context(loop, tcp_pair):
    one, peer = tcp_pair
    variable.set("connecting")
    transport, protocol = await loop.create_connection(Numbering, sock=one)
    variable.set("connected")
    peer.send(b"x")
    await protocol.received(1)
    transport.close()
    await protocol.lost
    assert protocol.calls[:2] == [("connection_made", "connecting"), ("data_received", "connection_made")]
    assert variable.get() == "connected"


# --- connections that were accepted elsewhere -----------------------------------------------------


async def test_connect_accepted_socket_makes_a_transport(loop, tcp_pair):
    one, client = tcp_pair
    one.setblocking(True)
    transport, protocol = await loop.connect_accepted_socket(Recorder, one)
    assert protocol.calls == ["connection_made"]
    client.send(b"hello")
    assert await protocol.received(5) == b"hello"
    transport.write(b"answer")
    assert await receive_exactly(loop, client, 6) == b"answer"
    transport.close()
    await protocol.lost


async def test_connect_accepted_socket_wants_a_stream(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="A Stream Socket was expected"):
        await loop.connect_accepted_socket(Recorder, sock)


@pytest.mark.parametrize("option", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
async def test_connect_accepted_socket_wants_tls_for_its_timeouts(loop, tcp_pair, option):
    with pytest.raises(ValueError, match=f"^{option} is only meaningful with ssl$"):
        await loop.connect_accepted_socket(Recorder, tcp_pair[0], **{option: 1})


async def test_only_the_reader_of_a_listening_descriptor_is_the_server(loop, factory, accepted):
    server = await loop.create_server(factory, "127.0.0.1", 0)
    number = server.sockets[0].fileno()
    assert loop.remove_writer(number) is False
    with contextlib.suppress(RuntimeError):  # velodrome refuses it: it would never be called
        loop.add_writer(number, print)
    client, protocol = await client_of(loop, server, accepted)
    loop.remove_writer(number)
    await close(server, client)
    await protocol.lost
