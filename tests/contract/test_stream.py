"""Stream transports: what every one of them promises, over TCP and over a Unix socket pair.

Reading, writing and the end have files of their own; here is what is left.
"""

import asyncio
import random
import socket

import pytest
from checker import Recorder, Wayward, receive_all, receive_exactly

# --- the beginning --------------------------------------------------------------------------------


async def test_connection_made_comes_first_and_once(loop, stream):
    transport, protocol, peer = await stream(Recorder())
    await loop.sock_sendall(peer, b"x")
    await protocol.received(1)
    assert protocol.calls == ["connection_made", "data_received"]
    assert protocol.transport is transport


async def test_a_transport_is_an_asyncio_transport(stream):
    transport, protocol, _ = await stream(Recorder())
    assert isinstance(transport, asyncio.Transport)
    assert transport.get_protocol() is protocol
    assert not transport.is_closing()
    assert transport.is_reading()


async def test_connection_made_has_been_called_when_the_connection_is_there(stream):
    _, protocol, _ = await stream(Recorder())
    assert protocol.calls == ["connection_made"]


# --- extra info -----------------------------------------------------------------------------------


async def test_extra_info_has_the_addresses(stream):
    transport, _, peer = await stream(Recorder())
    assert transport.get_extra_info("peername") == peer.getsockname()
    assert transport.get_extra_info("sockname") == peer.getpeername()


async def test_extra_info_has_a_socket_that_cannot_read_or_write(stream):
    transport, _, peer = await stream(Recorder())
    sock = transport.get_extra_info("socket")
    assert isinstance(sock, asyncio.trsock.TransportSocket)
    assert (sock.family, sock.type) == (peer.family, peer.type)
    assert sock.fileno() >= 0
    assert sock.getsockname() == peer.getpeername()
    assert sock.gettimeout() == 0
    assert not hasattr(sock, "recv") and not hasattr(sock, "send")


async def test_extra_info_that_is_not_there_is_the_default(stream):
    transport, _, _ = await stream(Recorder())
    assert transport.get_extra_info("nonsense") is None
    assert transport.get_extra_info("nonsense", 5) == 5
    assert transport.get_extra_info("sslcontext") is None


async def test_extra_info_stays_after_the_end(stream):
    transport, protocol, peer = await stream(Recorder())
    transport.close()
    await protocol.lost
    await asyncio.sleep(0)
    assert transport.get_extra_info("peername") == peer.getsockname()
    assert transport.get_extra_info("socket").fileno() == -1


async def test_tcp_does_not_wait_to_join_small_packets(stream):
    transport, _, _ = await stream(Recorder())
    if stream.kind != "unix":
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


# --- many at once ---------------------------------------------------------------------------------


async def test_many_streams_do_not_mix(loop, stream):
    streams = [await stream(Recorder()) for _ in range(30)]
    for number, (transport, _, peer) in enumerate(streams):
        transport.write(b"to peer %04d" % number)
        await loop.sock_sendall(peer, b"from peer %04d" % number)
    for number, (_, protocol, peer) in enumerate(streams):
        assert await receive_exactly(loop, peer, 12) == b"to peer %04d" % number
        assert await protocol.received(14) == b"from peer %04d" % number


async def test_an_echo_answers_every_message(loop, stream):
    class Echo(Recorder):
        def data_received(self, data):
            self.transport.write(data)

    _, _, peer = await stream(Echo())
    for number in range(300):
        message = b"%05d" % number
        await loop.sock_sendall(peer, message)
        assert await receive_exactly(loop, peer, 5) == message


async def test_an_echo_of_two_writes_answers_every_message(loop, stream):
    """Head and body: the pattern for which a transport may join its writes."""

    class Echo(Recorder):
        def data_received(self, data):
            self.transport.write(b"head:")
            self.transport.write(data)

    _, _, peer = await stream(Echo())
    for number in range(300):
        message = b"%05d" % number
        await loop.sock_sendall(peer, message)
        assert await receive_exactly(loop, peer, 10) == b"head:" + message


# --- a conversation that nobody planned -----------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_a_wayward_conversation_loses_nothing(loop, stream, seed):
    numbers = random.Random(seed)
    transport, protocol, peer = await stream(Wayward(numbers))
    sent = bytearray()
    received = bytearray()

    async def send():
        for _ in range(150):
            data = numbers.randbytes(numbers.choice((1, 10, 1000, 20_000)))
            sent.extend(data)
            await loop.sock_sendall(peer, data)
            if numbers.randrange(5) == 0:
                await asyncio.sleep(numbers.random() / 2000)
        await protocol.until(lambda: len(protocol.data) == len(sent))
        transport.set_protocol(protocol)
        transport.close()

    async def receive():
        received.extend(await receive_all(loop, peer))

    await asyncio.gather(send(), receive())
    assert protocol.data == sent
    assert received == protocol.written
    assert await protocol.lost is None
