"""create_connection."""

import asyncio
import contextlib
import errno
import socket
import sys

import pytest
from checker import Recorder, polled, receive_exactly

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors is new in 3.12")


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture
def refused():
    """The address of a port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


async def end(transport, protocol):
    transport.close()
    await protocol.lost


def addrinfo(*addresses):
    """What getaddrinfo would answer for these addresses."""
    families = [socket.AF_INET6 if ":" in address[0] else socket.AF_INET for address in addresses]
    return [
        (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
        for family, address in zip(families, addresses, strict=True)
    ]


def resolve_to(loop, *addresses):
    """Let every name of `loop` have these addresses."""

    async def getaddrinfo(host, port, **options):
        return addrinfo(*addresses)

    loop.getaddrinfo = getaddrinfo


async def test_create_connection_connects(loop, listener):
    transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
    accepted, address = await loop.sock_accept(listener)
    with accepted:
        assert type(protocol) is Recorder
        assert transport.get_protocol() is protocol
        assert transport.get_extra_info("sockname") == address
        assert transport.get_extra_info("peername") == listener.getsockname()
        transport.write(b"hello")
        assert await receive_exactly(loop, accepted, 5) == b"hello"
        await end(transport, protocol)


async def test_a_name_is_resolved(loop, listener):
    transport, protocol = await loop.create_connection(Recorder, "localhost", listener.getsockname()[1])
    await end(transport, protocol)


async def test_the_port_may_be_text(loop, listener):
    transport, protocol = await loop.create_connection(Recorder, "127.0.0.1", str(listener.getsockname()[1]))
    await end(transport, protocol)


async def test_ipv6_connects(loop):
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname()[:2])
        assert transport.get_extra_info("peername") == listener.getsockname()
        await end(transport, protocol)


async def test_a_connected_socket_is_used(loop, listener):
    sock = socket.create_connection(listener.getsockname())
    transport, protocol = await loop.create_connection(Recorder, sock=sock)
    assert transport.get_extra_info("socket").fileno() == sock.fileno()
    assert sock.gettimeout() == 0
    await end(transport, protocol)


async def test_local_addr_is_where_it_comes_from(loop, listener):
    transport, protocol = await loop.create_connection(Recorder, *listener.getsockname(), local_addr=("127.0.0.3", 0))
    assert transport.get_extra_info("sockname")[0] == "127.0.0.3"
    await end(transport, protocol)


async def test_a_local_addr_in_use_is_an_error(loop, listener):
    with pytest.raises(OSError, match="error while attempting to bind on address") as caught:
        await loop.create_connection(Recorder, *listener.getsockname(), local_addr=listener.getsockname())
    assert caught.value.errno == errno.EADDRINUSE


async def test_a_local_addr_of_another_family_is_an_error(loop, listener):
    with pytest.raises(OSError):
        await loop.create_connection(Recorder, *listener.getsockname(), local_addr=("::1", 0))


async def test_the_family_is_obeyed(loop, listener):
    port = listener.getsockname()[1]
    transport, protocol = await loop.create_connection(Recorder, "localhost", port, family=socket.AF_INET)
    assert transport.get_extra_info("socket").family == socket.AF_INET
    await end(transport, protocol)
    with pytest.raises(socket.gaierror):
        await loop.create_connection(Recorder, "127.0.0.1", port, family=socket.AF_INET6)


async def test_proto_and_flags_are_obeyed(loop, listener):
    options = {"proto": socket.IPPROTO_TCP, "flags": socket.AI_NUMERICHOST}
    transport, protocol = await loop.create_connection(Recorder, *listener.getsockname(), **options)
    await end(transport, protocol)
    with pytest.raises(socket.gaierror):
        await loop.create_connection(Recorder, "localhost", listener.getsockname()[1], **options)


async def test_a_refused_connection_is_an_error(loop, refused):
    with pytest.raises(ConnectionRefusedError) as caught:
        await loop.create_connection(Recorder, *refused)
    assert caught.value.errno == errno.ECONNREFUSED
    assert str(refused) in str(caught.value)


@since_3_12
async def test_all_errors_are_raised_on_request(loop, refused):
    resolve_to(loop, refused, ("127.0.0.2", refused[1]))
    with pytest.raises(ExceptionGroup) as caught:
        await loop.create_connection(Recorder, "a name", 80, all_errors=True)
    assert [exc.errno for exc in caught.value.exceptions] == [errno.ECONNREFUSED] * 2


async def test_several_errors_become_one(loop, refused):
    resolve_to(loop, refused, ("127.0.0.2", refused[1]))
    with pytest.raises(OSError, match="Multiple exceptions: .*127.0.0.1.*127.0.0.2"):
        await loop.create_connection(Recorder, "a name", 80)


async def test_the_next_address_is_tried(loop, refused, listener):
    resolve_to(loop, refused, listener.getsockname())
    transport, protocol = await loop.create_connection(Recorder, "a name", 80)
    assert transport.get_extra_info("peername") == listener.getsockname()
    await end(transport, protocol)


async def test_no_address_is_an_error(loop):
    resolve_to(loop)
    with pytest.raises(OSError, match=r"getaddrinfo\(\) returned empty list"):
        await loop.create_connection(Recorder, "a name", 80)


@pytest.mark.parametrize("delay", [0.001, 0.25])
async def test_happy_eyeballs_finds_the_address_that_answers(loop, refused, listener, delay):
    resolve_to(loop, refused, ("127.0.0.2", refused[1]), listener.getsockname())
    transport, protocol = await loop.create_connection(Recorder, "a name", 80, happy_eyeballs_delay=delay)
    assert transport.get_extra_info("peername") == listener.getsockname()
    await end(transport, protocol)


async def test_happy_eyeballs_does_not_wait_for_an_address_that_is_silent(loop, listener):
    with silent_address() as silent:
        resolve_to(loop, silent, listener.getsockname())
        transport, protocol = await loop.create_connection(Recorder, "a name", 80, happy_eyeballs_delay=0.01)
        assert transport.get_extra_info("peername") == listener.getsockname()
        await end(transport, protocol)


async def test_happy_eyeballs_fails_when_all_do(loop, refused):
    resolve_to(loop, refused, refused)
    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(Recorder, "a name", 80, happy_eyeballs_delay=0.01)


async def test_interleave_takes_the_families_in_turn(loop, refused):
    port = refused[1]
    six = ("::1", port, 0, 0)
    resolve_to(loop, refused, ("127.0.0.2", port), six)
    with pytest.raises(OSError) as caught:
        await loop.create_connection(Recorder, "a name", 80, interleave=1)
    message = str(caught.value)
    assert message.index("127.0.0.1") < message.index("::1") < message.index("127.0.0.2")


# --- cancellation at each await -------------------------------------------------------------------


@contextlib.contextmanager
def silent_address():
    """An address that answers nothing: a listener whose queue is full."""
    with socket.socket() as listener, contextlib.ExitStack() as clients:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)


async def test_cancelled_while_the_name_is_resolved_leaves_nothing(loop):
    asked = asyncio.Event()

    async def getaddrinfo(host, port, **options):
        asked.set()
        await asyncio.Event().wait()

    loop.getaddrinfo = getaddrinfo
    task = loop.create_task(loop.create_connection(Recorder, "a name", 80))
    await asked.wait()
    await cancelled(task)


@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": 0.01}])
async def test_cancelled_while_it_connects_leaves_nothing(loop, options):
    with silent_address() as silent:
        resolve_to(loop, silent, silent)
        task = loop.create_task(loop.create_connection(Recorder, "a name", 80, **options))
        await polled(loop)
        await cancelled(task)


@pytest.mark.parametrize("steps", range(12))
async def test_cancelled_after_any_number_of_steps_leaves_nothing(loop, listener, steps):
    """Also where the transport is there already, but connection_made has not been called."""
    protocols = []

    class Protocol(Recorder):
        def __init__(self):
            super().__init__()
            protocols.append(self)

    task = loop.create_task(loop.create_connection(Protocol, *listener.getsockname()))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    try:
        transport, _ = await task
    except asyncio.CancelledError:
        pass
    else:
        transport.close()
    await polled(loop)
    for protocol in protocols:
        assert protocol.calls in (["connection_made", "connection_lost"], [])


async def test_a_timeout_while_it_connects_leaves_nothing(loop):
    with silent_address() as silent, pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(loop.create_connection(Recorder, *silent), 0.01)


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "host and port was not specified and no sock specified"),
        ({"host": "127.0.0.1", "sock": True}, "host/port and sock can not be specified at the same time"),
        ({"port": 80, "sock": True}, "host/port and sock can not be specified at the same time"),
        ({"host": "x", "server_hostname": "y"}, "server_hostname is only meaningful with ssl"),
        ({"sock": True, "ssl": True}, "You must set server_hostname when using ssl without a host"),
        ({"host": "x", "ssl_handshake_timeout": 1}, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"host": "x", "ssl_shutdown_timeout": 1}, "ssl_shutdown_timeout is only meaningful with ssl"),
    ],
)
async def test_arguments_that_make_no_sense_are_refused(loop, options, message):
    with socket.socket() as sock, pytest.raises(ValueError, match=f"^{message}$"):
        await loop.create_connection(Recorder, **(options | ({"sock": sock} if "sock" in options else {})))


async def test_a_datagram_socket_is_refused(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="A Stream Socket was expected"):
        await loop.create_connection(Recorder, sock=sock)


@pytest.mark.parametrize("port", [70000, -1])
async def test_a_port_out_of_range_is_refused(loop, port):
    with pytest.raises(OverflowError):
        await loop.create_connection(Recorder, "127.0.0.1", port)


async def test_a_socket_that_is_not_connected_fails_by_itself(loop):
    sock = socket.socket()
    transport, protocol = await loop.create_connection(Recorder, sock=sock)
    assert transport.get_extra_info("peername") is None
    assert isinstance(await protocol.lost, OSError | None)


async def test_a_closed_socket_is_an_error(loop):
    sock = socket.socket()
    sock.close()
    with pytest.raises((OSError, ValueError)):
        await loop.create_connection(Recorder, sock=sock)


async def test_many_connections_at_once(loop, listener):
    listener.listen(100)
    made = await asyncio.gather(*(loop.create_connection(Recorder, *listener.getsockname()) for _ in range(50)))
    for transport, _ in made:
        transport.close()
    await asyncio.gather(*(protocol.lost for _, protocol in made))
