"""sock_*: the calls of a non-blocking socket, awaited."""

import asyncio
import contextlib
import errno
import os
import socket
import ssl

import pytest
from checker import polled, receive_exactly

PAYLOAD = bytes(range(256)) * 8192  # 2 MiB: more than any socket buffer takes


@pytest.fixture(params=["unix", "tcp"])
def pair(request):
    return request.getfixturevalue({"unix": "socket_pair", "tcp": "tcp_pair"}[request.param])


@pytest.fixture
def datagram_pair():
    one, other = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
    with one, other:
        for sock in (one, other):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        yield one, other


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def nothing_is_registered(loop, *socks):
    return not any(method(sock) for sock in socks for method in (loop.remove_reader, loop.remove_writer))


def stuff(sock):
    """Send until the kernel takes no more."""
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))


# --- receiving ------------------------------------------------------------------------------------


async def test_sock_recv_returns_what_is_there(loop, pair):
    one, other = pair
    other.send(b"input")
    assert await receive_exactly(loop, one, 5) == b"input"


async def test_sock_recv_waits_for_input(loop, pair):
    one, other = pair
    receiving = loop.create_task(loop.sock_recv(one, 100))
    await polled(loop)
    assert not receiving.done()
    other.send(b"input")
    assert await receiving == b"input"
    assert nothing_is_registered(loop, one)


async def test_sock_recv_returns_no_more_than_asked_for(loop, pair):
    one, other = pair
    other.send(b"input")
    assert await receive_exactly(loop, one, 2) == b"in"
    assert await receive_exactly(loop, one, 3) == b"put"


async def test_sock_recv_returns_nothing_at_the_end(loop, pair):
    one, other = pair
    receiving = loop.create_task(loop.sock_recv(one, 100))
    await asyncio.sleep(0)
    other.close()
    assert await receiving == b""
    assert await loop.sock_recv(one, 100) == b""


async def test_sock_recv_of_much_and_little_in_turn_returns_what_is_there(loop, pair):
    one, other = pair
    for size in (100, 50_000, 50_000, 1, 40_000, 100_000, 7):
        piece = os.urandom(size)
        sending = loop.create_task(loop.sock_sendall(other, piece))
        received = b""
        while len(received) < size:
            # More than much, much, and as much as there is.
            for limit in (300_000, 100_000, size - len(received)):
                if len(received) < size:
                    received += await loop.sock_recv(one, limit)
        assert received == piece
        await sending
    other.shutdown(socket.SHUT_WR)
    assert await loop.sock_recv(one, 100_000) == b""


async def test_sock_recv_into_fills_the_buffer(loop, pair):
    one, other = pair
    buffer = bytearray(10)
    receiving = loop.create_task(loop.sock_recv_into(one, buffer))
    await asyncio.sleep(0)
    other.send(b"input")
    assert await receiving == 5
    assert buffer == b"input" + bytes(5)
    other.send(b"more")
    assert await loop.sock_recv_into(one, memoryview(buffer)[5:]) == 4
    assert buffer == b"inputmore" + bytes(1)


async def test_sock_recv_into_needs_a_writable_buffer(loop, pair):
    one, _ = pair
    with pytest.raises(TypeError):
        await loop.sock_recv_into(one, b"read-only")
    assert nothing_is_registered(loop, one)


async def test_sock_recvfrom_tells_the_sender(loop, datagram_pair):
    one, other = datagram_pair
    receiving = loop.create_task(loop.sock_recvfrom(one, 100))
    await asyncio.sleep(0)
    other.sendto(b"datagram", one.getsockname())
    assert await receiving == (b"datagram", other.getsockname())
    assert nothing_is_registered(loop, one)


async def test_sock_recvfrom_cuts_a_long_datagram(loop, datagram_pair):
    one, other = datagram_pair
    other.sendto(b"datagram", one.getsockname())
    data, _ = await loop.sock_recvfrom(one, 4)
    assert data == b"data"


async def test_sock_recvfrom_into_fills_the_buffer(loop, datagram_pair):
    one, other = datagram_pair
    buffer = bytearray(10)
    receiving = loop.create_task(loop.sock_recvfrom_into(one, buffer))
    await asyncio.sleep(0)
    other.sendto(b"datagram", one.getsockname())
    assert await receiving == (8, other.getsockname())
    assert buffer == b"datagram" + bytes(2)


async def test_sock_recvfrom_into_takes_a_limit(loop, datagram_pair):
    one, other = datagram_pair
    buffer = bytearray(10)
    other.sendto(b"datagram", one.getsockname())
    count, _ = await loop.sock_recvfrom_into(one, buffer, 4)
    assert (count, buffer) == (4, b"data" + bytes(6))


async def test_an_empty_datagram_is_a_datagram(loop, datagram_pair):
    one, other = datagram_pair
    other.sendto(b"", one.getsockname())
    assert await loop.sock_recvfrom(one, 100) == (b"", other.getsockname())


# --- sending --------------------------------------------------------------------------------------


async def test_sock_sendall_sends_everything(loop, pair):
    one, other = pair
    _, received = await asyncio.gather(loop.sock_sendall(one, PAYLOAD), receive_exactly(loop, other, len(PAYLOAD)))
    assert received == PAYLOAD
    assert nothing_is_registered(loop, one, other)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_sock_sendall_takes_any_bytes(loop, pair, kind):
    one, other = pair
    assert await loop.sock_sendall(one, kind(b"output")) is None
    assert await receive_exactly(loop, other, 6) == b"output"


async def test_sock_sendall_of_nothing_returns(loop, pair):
    one, _ = pair
    await loop.sock_sendall(one, b"")


async def test_sock_sendall_goes_on_after_a_wait(loop, pair):
    one, other = pair
    sending = loop.create_task(loop.sock_sendall(one, PAYLOAD))
    await polled(loop)
    assert not sending.done()
    received = await receive_exactly(loop, other, len(PAYLOAD))
    await sending
    assert received == PAYLOAD


async def test_sock_sendall_refuses_text(loop, pair):
    with pytest.raises(TypeError):
        await loop.sock_sendall(pair[0], "text")


async def test_sock_sendall_to_a_closed_peer_fails(loop, socket_pair):
    one, other = socket_pair
    other.close()
    with pytest.raises(BrokenPipeError):
        await loop.sock_sendall(one, b"x")


async def test_sock_sendall_fails_while_it_waits(loop, socket_pair):
    one, other = socket_pair
    sending = loop.create_task(loop.sock_sendall(one, PAYLOAD))
    await asyncio.sleep(0)
    other.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await sending
    assert nothing_is_registered(loop, one)


async def test_sock_sendto_sends_a_datagram(loop, datagram_pair):
    one, other = datagram_pair
    assert await loop.sock_sendto(one, b"datagram", other.getsockname()) == 8
    assert await loop.sock_recvfrom(other, 100) == (b"datagram", one.getsockname())


async def test_sock_sendto_waits_for_room(loop):
    name = f"\0velodrome-sendto-{os.getpid()}"
    one, other = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        other.bind(name)
        one.connect(name)  # so that the queue of the receiver decides when there is room
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                one.send(b"x")
                count += 1
        sending = loop.create_task(loop.sock_sendto(one, b"last", name))
        await polled(loop)
        assert not sending.done()
        for _ in range(count):
            assert await loop.sock_recv(other, 100) == b"x"
        assert await sending == 4
        assert await loop.sock_recv(other, 100) == b"last"


# --- connecting and accepting ---------------------------------------------------------------------


async def test_sock_connect_and_sock_accept_meet(loop, listener):
    with socket.socket() as client:
        client.setblocking(False)
        accepting = loop.create_task(loop.sock_accept(listener))
        await asyncio.sleep(0)
        assert await loop.sock_connect(client, listener.getsockname()) is None
        accepted, address = await accepting
        with accepted:
            assert address == client.getsockname()
            assert accepted.gettimeout() == 0
            assert not accepted.get_inheritable()
            await loop.sock_sendall(client, b"hello")
            assert await receive_exactly(loop, accepted, 5) == b"hello"
            assert nothing_is_registered(loop, client, accepted, listener)


async def test_sock_accept_takes_a_waiting_client_at_once(loop, listener):
    with socket.create_connection(listener.getsockname()) as client:
        accepted, address = await loop.sock_accept(listener)
        accepted.close()
        assert address == client.getsockname()


async def test_sock_connect_resolves_a_name(loop, listener):
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
        accepted, _ = await loop.sock_accept(listener)
        accepted.close()


async def test_sock_connect_to_a_unix_path(loop, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.setblocking(False)
        client.setblocking(False)
        await loop.sock_connect(client, str(tmp_path / "socket"))
        accepted, _ = await loop.sock_accept(listener)
        accepted.close()


async def test_a_refused_connection_is_an_error(loop, listener):
    address = listener.getsockname()
    listener.close()
    with socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.sock_connect(client, address)
        assert caught.value.errno == errno.ECONNREFUSED
        assert str(address) in str(caught.value)
        assert nothing_is_registered(loop, client)


async def test_a_missing_unix_path_is_an_error(loop, tmp_path):
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        with pytest.raises(FileNotFoundError):
            await loop.sock_connect(client, str(tmp_path / "missing"))


async def test_a_socket_that_is_connected_cannot_be_connected_again(loop, listener):
    with socket.create_connection(listener.getsockname()) as client:
        client.setblocking(False)
        with pytest.raises(OSError) as caught:
            await loop.sock_connect(client, listener.getsockname())
        assert caught.value.errno == errno.EISCONN
        listener.accept()[0].close()


async def test_sock_accept_on_a_socket_that_does_not_listen_is_an_error(loop, pair):
    with pytest.raises(OSError) as caught:
        await loop.sock_accept(pair[0])
    assert caught.value.errno == errno.EINVAL


# --- waiting calls can be cancelled ---------------------------------------------------------------


def waiting_calls(loop, sock):
    return {
        "sock_recv": lambda: loop.sock_recv(sock, 10),
        "sock_recv_into": lambda: loop.sock_recv_into(sock, bytearray(10)),
        "sock_recvfrom": lambda: loop.sock_recvfrom(sock, 10),
        "sock_recvfrom_into": lambda: loop.sock_recvfrom_into(sock, bytearray(10)),
        "sock_sendall": lambda: loop.sock_sendall(sock, PAYLOAD),
    }


WAITING = ("sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendall")


@pytest.mark.parametrize("call", WAITING)
async def test_a_cancelled_call_leaves_nothing_registered(loop, pair, call):
    one, other = pair
    if call == "sock_sendall":
        stuff(one)
    task = loop.create_task(waiting_calls(loop, one)[call]())
    await polled(loop)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert nothing_is_registered(loop, one)


@pytest.mark.parametrize("call", WAITING)
async def test_a_call_cancelled_when_it_could_go_on_leaves_nothing_registered(loop, socket_pair, call):
    one, other = socket_pair
    if call == "sock_sendall":
        stuff(one)
    task = loop.create_task(waiting_calls(loop, one)[call]())
    await polled(loop)
    other.send(b"x")
    with contextlib.suppress(BlockingIOError):
        while other.recv(1 << 20):
            pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert nothing_is_registered(loop, one)


async def test_input_that_comes_after_the_cancellation_is_kept(loop, pair):
    one, other = pair
    task = loop.create_task(loop.sock_recv(one, 10))
    await polled(loop)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    other.send(b"kept")
    assert await receive_exactly(loop, one, 4) == b"kept"


async def test_a_cancelled_accept_leaves_the_client_to_the_next(loop, listener):
    task = loop.create_task(loop.sock_accept(listener))
    await polled(loop)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with socket.create_connection(listener.getsockname()) as client:
        accepted, address = await loop.sock_accept(listener)
        accepted.close()
        assert address == client.getsockname()
    await asyncio.sleep(0)
    assert nothing_is_registered(loop, listener)


async def test_a_cancelled_connect_leaves_nothing_registered(loop):
    # A listener whose queue is full keeps the next client waiting.
    with socket.socket() as listener, contextlib.ExitStack() as clients:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            task = loop.create_task(loop.sock_connect(client, listener.getsockname()))
            await polled(loop)
            if not task.done():
                break
            await task
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert nothing_is_registered(loop, client)


async def test_a_timeout_ends_a_waiting_call(loop, pair):
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(loop.sock_recv(pair[0], 10), 0.001)
    assert nothing_is_registered(loop, pair[0])


async def test_reading_and_writing_wait_side_by_side(loop, pair):
    one, other = pair
    sending = loop.create_task(loop.sock_sendall(one, PAYLOAD))
    receiving = loop.create_task(loop.sock_recv(one, 100))
    await polled(loop)
    assert not sending.done() and not receiving.done()
    await loop.sock_sendall(other, b"answer")
    assert await receiving == b"answer"
    assert await receive_exactly(loop, other, len(PAYLOAD)) == PAYLOAD
    await sending


async def test_many_messages_back_and_forth(loop, pair):
    one, other = pair

    async def echo():
        while data := await loop.sock_recv(other, 100):
            await loop.sock_sendall(other, data)

    echoing = loop.create_task(echo())
    for number in range(200):
        message = b"%05d" % number
        await loop.sock_sendall(one, message)
        assert await receive_exactly(loop, one, 5) == message
    one.close()
    await echoing


# --- sockets that will not do ---------------------------------------------------------------------


def every_call(loop, sock):
    return {
        **waiting_calls(loop, sock),
        "sock_sendto": lambda: loop.sock_sendto(sock, b"x", ("127.0.0.1", 1)),
        "sock_connect": lambda: loop.sock_connect(sock, ("127.0.0.1", 1)),
        "sock_accept": lambda: loop.sock_accept(sock),
    }


EVERY = (*WAITING, "sock_sendto", "sock_connect", "sock_accept")


@pytest.mark.parametrize("call", EVERY)
async def test_a_blocking_socket_is_refused_in_debug_mode(loop, call):
    loop.set_debug(True)
    with socket.socket() as sock, pytest.raises(ValueError, match=r"^the socket must be non-blocking$"):
        await every_call(loop, sock)[call]()


@pytest.mark.parametrize("call", EVERY)
async def test_a_closed_socket_is_an_error(loop, call):
    sock = socket.socket()
    sock.setblocking(False)
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        await every_call(loop, sock)[call]()
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("call", EVERY)
async def test_a_tls_socket_is_refused(loop, call):
    context = ssl.create_default_context()
    with socket.socket() as plain:
        plain.setblocking(False)
        with context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False) as sock:
            with pytest.raises(TypeError, match=r"^Socket cannot be of type SSLSocket$"):
                await every_call(loop, sock)[call]()


async def test_a_socket_of_a_transport_cannot_be_waited_for(loop, socket_pair):
    one, other = socket_pair
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
    duplicate_number = transport.get_extra_info("socket").fileno()

    class Borrowed:
        """The socket of the transport, which the transport itself does not give away."""

        def __getattr__(self, name):
            return getattr(one, name)

    assert one.fileno() == duplicate_number
    with pytest.raises(RuntimeError, match="is used by transport"):
        await loop.sock_recv(Borrowed(), 10)
    transport.abort()
    await asyncio.sleep(0)


# --- one number, several socket objects -----------------------------------------------------------


async def test_two_objects_of_one_socket_wait_side_by_side(loop, tcp_pair):
    one, other = tcp_pair
    twin = socket.socket(fileno=one.fileno())
    try:
        receiving = loop.create_task(loop.sock_recv(one, 10))
        await asyncio.sleep(0)
        payload = bytes(3_000_000)
        sending = loop.create_task(loop.sock_sendall(twin, payload))
        await asyncio.sleep(0)
        assert await receive_exactly(loop, other, len(payload)) == payload
        await sending
        other.send(b"answer")
        assert await receiving == b"answer"
    finally:
        twin.detach()


@pytest.mark.differs("who waits for a closed socket waits for ever")
async def test_who_waits_for_a_closed_socket_hears_of_it_from_the_next_owner_of_its_number(loop):
    one, peer = socket.socketpair()
    one.setblocking(False)
    number = one.fileno()
    receiving = loop.create_task(loop.sock_recv(one, 10))
    await asyncio.sleep(0)
    one.close()
    next_one, next_peer = socket.socketpair()
    with peer, next_one, next_peer:
        assert next_one.fileno() == number
        next_one.setblocking(False)
        also = loop.create_task(loop.sock_recv(next_one, 10))
        await asyncio.sleep(0)
        next_peer.send(b"for the next")
        done, _ = await asyncio.wait([receiving, also], timeout=1)
        assert also.result() == b"for the ne"
        assert receiving in done
        assert receiving.exception().errno == errno.EBADF


# --- nothing, and sockets of one's own ------------------------------------------------------------


async def test_nothing_is_received_at_once(loop, pair):
    one, _ = pair
    assert await loop.sock_recv(one, 0) == b""
    assert await loop.sock_recv_into(one, bytearray()) == 0


async def test_an_empty_datagram_is_sent(loop, datagram_pair):
    one, other = datagram_pair
    one.connect(other.getsockname())
    await loop.sock_sendall(one, b"")
    other.setblocking(False)
    assert other.recvfrom(10) == (b"", one.getsockname())


async def test_sending_nothing_may_fail(loop, socket_pair):
    one, other = socket_pair
    other.close()
    with pytest.raises(BrokenPipeError):
        await loop.sock_sendall(one, b"")


class Shouting(socket.socket):
    """Has methods of its own, which asyncio calls."""

    def recv(self, *args):
        return super().recv(*args).upper()

    def recv_into(self, buffer, *args):
        count = super().recv_into(buffer, *args)
        buffer[:count] = bytes(buffer[:count]).upper()
        return count

    def send(self, data, *args):
        return super().send(bytes(data).upper(), *args)


async def test_the_methods_of_a_socket_of_ones_own_are_called(loop, socket_pair):
    one, other = socket_pair
    with Shouting(one.family, one.type, fileno=one.detach()) as shouting:
        shouting.setblocking(False)
        other.send(b"early")
        assert await loop.sock_recv(shouting, 10) == b"EARLY"
        receiving = loop.create_task(loop.sock_recv(shouting, 10))
        await asyncio.sleep(0)
        other.send(b"late")
        assert await receiving == b"LATE"
        buffer = bytearray(10)
        receiving = loop.create_task(loop.sock_recv_into(shouting, buffer))
        await asyncio.sleep(0)
        other.send(b"into")
        assert await receiving == 4
        assert buffer[:4] == b"INTO"
        await loop.sock_sendall(shouting, b"answer")
        assert other.recv(10) == b"ANSWER"


class Wrapper:
    """A socket of whatever kind, without weak references."""

    __slots__ = ("sock",)

    def __init__(self, sock):
        self.sock = sock

    def __getattr__(self, name):
        return getattr(self.sock, name)


async def test_what_only_acts_as_a_socket_will_do(loop, pair):
    one, other = map(Wrapper, pair)
    receiving = loop.create_task(loop.sock_recv(one, 10))
    await asyncio.sleep(0)
    await loop.sock_sendall(other, b"wrapped")
    assert await receiving == b"wrapped"
