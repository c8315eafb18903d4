"""`close` and `abort`: `connection_lost` comes later and once, then the socket is closed."""

import asyncio
import fcntl
import logging
import os

import pytest
from datagram_checker import LOCAL, Datagrams, settled


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_connection_lost_is_called_later_and_once(loop, endpoint, sockets, end):
    transport, protocol = await endpoint(local_addr=LOCAL)
    getattr(transport, end)()
    assert transport.is_closing()
    assert protocol.calls == ["connection_made"]
    for method in ("close", "abort", "close"):
        getattr(transport, method)()
    assert protocol.calls == ["connection_made"]
    assert await protocol.lost is None
    await settled(loop)
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_the_socket_is_closed_after_connection_lost(endpoint):
    class Protocol(Datagrams):
        def connection_lost(self, exc):
            numbers.append(self.transport.get_extra_info("socket").fileno())
            super().connection_lost(exc)

    numbers = []
    transport, protocol = await endpoint(Protocol(), local_addr=LOCAL)
    sock = transport.get_extra_info("socket")
    number = sock.fileno()
    transport.close()
    await protocol.lost
    assert numbers == [number]
    await asyncio.sleep(0)
    assert sock.fileno() == -1


async def test_nothing_is_received_after_close(loop, endpoint, sockets):
    transport, protocol = await endpoint(local_addr=LOCAL)
    sockets().sendto(b"x", transport.get_extra_info("sockname"))
    transport.close()
    await protocol.lost
    await settled(loop)
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_a_closed_transport_answers_harmlessly(endpoint):
    transport, protocol = await endpoint(local_addr=LOCAL)
    sockname = transport.get_extra_info("sockname")
    transport.close()
    await protocol.lost
    assert transport.is_closing()
    assert not transport.is_reading()
    assert transport.get_write_buffer_size() == 0
    for method in ("close", "abort", "pause_reading", "resume_reading"):
        getattr(transport, method)()
    await asyncio.sleep(0)
    assert transport.get_protocol() is None
    assert transport.get_extra_info("sockname") == sockname


async def test_sending_to_the_remote_addr_after_close_is_ignored(loop, endpoint, sockets):
    peer = sockets()
    transport, protocol = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(b"before")
    transport.close()
    transport.sendto(b"after")
    await protocol.lost
    transport.sendto(b"long after", peer.getsockname())
    with pytest.raises(ValueError, match="Invalid address"):
        transport.sendto(b"x", LOCAL)
    assert peer.recv(10) == b"before"
    with pytest.raises(BlockingIOError):
        peer.recv(10)


async def test_sending_again_and_again_after_close_is_logged(endpoint, sockets, caplog):
    transport, protocol = await endpoint(remote_addr=sockets().getsockname())
    transport.close()
    await protocol.lost
    for _ in range(4):
        transport.sendto(b"x")
    assert caplog.records == []
    for _ in range(3):
        transport.sendto(b"x")
    messages = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert messages == [(logging.WARNING, "socket.send() raised exception.")] * 3


async def test_what_is_sent_to_an_address_between_close_and_connection_lost_is_sent(endpoint, sockets):
    peer = sockets()
    transport, protocol = await endpoint(local_addr=LOCAL)
    transport.close()
    transport.sendto(b"late", peer.getsockname())
    assert peer.recv(10) == b"late"
    assert await protocol.lost is None


async def test_a_user_may_close_the_socket_under_the_transport(endpoint, sockets):
    sock = sockets()
    transport, protocol = await endpoint(sock=sock)
    sock.close()
    transport.close()
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "connection_lost"]


@pytest.mark.differs("the socket is closed at once and fails with EBADF")
async def test_a_socket_that_the_user_closed_is_open_until_the_transport_closes_it(endpoint, sockets):
    sock, peer = sockets(), sockets()
    transport, protocol = await endpoint(sock=sock)
    address = transport.get_extra_info("sockname")
    sock.close()
    transport.sendto(b"out", peer.getsockname())
    assert protocol.errors == []
    assert peer.recvfrom(10) == (b"out", address)
    peer.sendto(b"in", address)
    assert await protocol.received() == [b"in"]


async def test_a_socket_may_be_used_again_after_the_transport(loop, endpoint, sockets):
    ours, peer = sockets(), sockets()
    with ours.dup() as again:
        transport, protocol = await endpoint(sock=ours)
        transport.close()
        await protocol.lost
        transport, protocol = await endpoint(sock=again)
        peer.sendto(b"x", again.getsockname())
        assert await protocol.received() == [b"x"]
        transport.close()
        await protocol.lost


async def test_the_number_of_a_closed_endpoint_may_be_watched_again(loop, endpoint, socket_pair):
    transport, protocol = await endpoint(local_addr=LOCAL)
    number = transport.get_extra_info("socket").fileno()
    transport.close()
    await protocol.lost
    await asyncio.sleep(0)
    one, other = socket_pair
    assert fcntl.fcntl(one, fcntl.F_DUPFD, number) == number
    readable = loop.create_future()
    loop.add_reader(number, readable.set_result, None)
    other.send(b"x")
    await readable
    loop.remove_reader(number)
    os.close(number)
