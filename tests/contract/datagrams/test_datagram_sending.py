"""What `sendto` takes and sends, while the socket has room."""

import array
import errno
import random
import socket
import sys

import pytest
from datagram_checker import LARGEST, LOCAL, Datagrams, converse, drained, numbered, with_empty_datagrams


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))])
async def test_any_bytes_can_be_sent(endpoint, sockets, kind):
    peer = sockets()
    transport, _ = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(kind(b"data"))
    assert peer.recv(10) == b"data"


async def test_a_subclass_of_bytes_can_be_sent(endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(type("Data", (bytes,), {})(b"data"))
    assert peer.recv(10) == b"data"


async def test_a_view_of_numbers_is_sent_as_its_bytes(endpoint, sockets):
    peer = sockets()
    numbers = array.array("i", range(10))
    transport, _ = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(memoryview(numbers))
    assert peer.recv(100) == numbers.tobytes()


async def test_a_view_with_gaps_ends_the_transport(endpoint, reports, sockets):
    transport, protocol = await endpoint(remote_addr=sockets().getsockname())
    transport.sendto(memoryview(b"abcdef")[::2])
    assert type(await protocol.lost) is BufferError
    context = reports.take()
    assert context["message"] == "Fatal write error on datagram transport"
    assert context["exception"] is protocol.exception


@pytest.mark.parametrize("data", ["text", None, 5, [b"x"], array.array("i", [1])])
@pytest.mark.parametrize("closed", [False, True])
async def test_what_is_no_bytes_cannot_be_sent(endpoint, nobody, data, closed):
    transport, protocol = await endpoint(remote_addr=nobody)
    if closed:
        transport.close()
    message = f"data argument must be a bytes-like object, not {type(data).__name__!r}"
    with pytest.raises(TypeError, match=message):
        transport.sendto(data)
    assert transport.is_closing() == closed


@pytest.mark.parametrize("arguments", [(), (b"x", None, None)])
async def test_sendto_takes_data_and_an_address(endpoint, nobody, arguments):
    transport, _ = await endpoint(remote_addr=nobody)
    with pytest.raises(TypeError):
        transport.sendto(*arguments)
    with pytest.raises(TypeError):
        transport.sendto(b"x", address=nobody)


async def test_sendto_takes_keywords(loop, endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(local_addr=LOCAL)
    transport.sendto(data=b"one", addr=peer.getsockname())
    transport.sendto(b"two", addr=peer.getsockname())
    assert await drained(loop, peer, 2) == [b"one", b"two"]


async def test_sendto_sends_before_it_returns(endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(local_addr=LOCAL)
    for data in numbered(5):
        assert transport.sendto(data, peer.getsockname()) is None
        assert peer.recv(10) == data
    assert transport.get_write_buffer_size() == 0


async def test_the_remote_addr_may_be_named(endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(b"x", tuple(list(peer.getsockname())))
    assert peer.recv(10) == b"x"


@pytest.mark.parametrize("address", [("127.0.0.1", 9), ("localhost", 9), ["127.0.0.1", 9], (), "", 0, b"x"])
async def test_another_than_the_remote_addr_is_refused(endpoint, sockets, address):
    peer = sockets()
    transport, protocol = await endpoint(remote_addr=peer.getsockname())
    with pytest.raises(ValueError) as caught:
        transport.sendto(b"x", address)
    assert str(caught.value) == f"Invalid address: must be None or {peer.getsockname()}"
    transport.sendto(b"y", peer.getsockname())
    assert peer.recv(10) == b"y"
    assert protocol.calls == ["connection_made"]


async def test_the_remote_addr_of_ipv6_has_four_parts(endpoint, sockets):
    peer = sockets(("::1", 0))
    transport, _ = await endpoint(remote_addr=peer.getsockname()[:2])
    transport.sendto(b"x", peer.getsockname())
    assert peer.recv(10) == b"x"
    with pytest.raises(ValueError, match="Invalid address"):
        transport.sendto(b"x", peer.getsockname()[:2])


async def test_another_than_the_unix_remote_addr_is_refused(endpoint, sockets, folder):
    peer = sockets("peer")
    transport, _ = await endpoint(remote_addr="peer", family=socket.AF_UNIX)
    transport.sendto(b"x", "peer")
    assert peer.recv(10) == b"x"
    with pytest.raises(ValueError, match="Invalid address: must be None or peer"):
        transport.sendto(b"x", "other")


async def test_a_connected_socket_of_ours_sends_to_its_peer_whatever_the_address(endpoint, sockets):
    ours, peer, other = sockets(), sockets(), sockets()
    ours.connect(peer.getsockname())
    transport, protocol = await endpoint(sock=ours)
    transport.sendto(b"one")
    transport.sendto(b"two", other.getsockname())
    transport.sendto(b"three", "no address")
    assert [peer.recv(10) for _ in range(3)] == [b"one", b"two", b"three"]
    assert protocol.calls == ["connection_made"]


@pytest.mark.parametrize(("host", "largest"), [("127.0.0.1", LARGEST), ("::1", LARGEST + 20)])
async def test_the_largest_datagram_is_sent_and_received(endpoint, host, largest):
    one, first = await endpoint(local_addr=(host, 0))
    two, second = await endpoint(remote_addr=one.get_extra_info("sockname")[:2])
    data = random.Random(1).randbytes(largest)
    for _ in range(5):
        two.sendto(data)
        await first.received()
        assert first.datagrams.pop() == (data, two.get_extra_info("sockname"))
    assert second.errors == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("connected", [True, False])
async def test_a_datagram_that_is_too_large_is_an_error_and_the_transport_goes_on(endpoint, sockets, host, connected):
    peer = sockets((host, 0))
    family = peer.family
    address = peer.getsockname()
    remote = {"remote_addr": address[:2]} if connected else {}
    transport, protocol = await endpoint(family=family, **remote)
    transport.sendto(bytes(LARGEST + 21), address)
    (exc,) = protocol.errors  # inside sendto
    assert type(exc) is OSError
    assert exc.errno == errno.EMSGSIZE
    assert not transport.is_closing()
    transport.sendto(b"small", address)
    assert peer.recv(10) == b"small"
    assert protocol.calls == ["connection_made", "error_received"]


@with_empty_datagrams
@pytest.mark.parametrize("connected", [True, False])
async def test_an_empty_datagram_is_sent(endpoint, sockets, connected):
    peer = sockets()
    remote = {"remote_addr": peer.getsockname()} if connected else {"family": socket.AF_INET}
    transport, _ = await endpoint(**remote)
    for data in (b"", bytearray(), memoryview(b"")):
        transport.sendto(data, peer.getsockname())
        assert peer.recv(10) == b""


@with_empty_datagrams
async def test_two_endpoints_exchange_empty_datagrams(endpoint):
    one, first = await endpoint(local_addr=LOCAL)
    _, second = await endpoint(remote_addr=one.get_extra_info("sockname"))
    await converse(second, first, question=b"", answer=b"")


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="sent since 3.13")
async def test_an_empty_datagram_is_not_sent(endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(remote_addr=peer.getsockname())
    for data in (b"", bytearray(), memoryview(b"")):
        transport.sendto(data)
        with pytest.raises(BlockingIOError):
            peer.recv(10)


async def test_many_datagrams_are_sent_in_order(loop, endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(local_addr=LOCAL)
    for data in numbered(200):
        transport.sendto(data, peer.getsockname())
    assert await drained(loop, peer, 200) == numbered(200)


async def test_what_connection_made_sends_is_sent(loop, endpoint, sockets):
    class Protocol(Datagrams):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.sendto(b"hello")

    peer = sockets()
    await endpoint(Protocol(), remote_addr=peer.getsockname())
    assert peer.recv(10) == b"hello"


@pytest.mark.parametrize(
    ("method", "arguments"), [("write", [b"x"]), ("writelines", [[b"x"]]), ("write_eof", []), ("can_write_eof", [])]
)
async def test_an_endpoint_is_no_stream(endpoint, nobody, method, arguments):
    transport, _ = await endpoint(remote_addr=nobody)
    with pytest.raises(NotImplementedError):
        getattr(transport, method)(*arguments)
    assert not transport.is_closing()
