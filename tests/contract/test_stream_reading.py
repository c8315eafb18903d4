"""Stream transports: what they read, when, and which protocol gets it."""

import asyncio
import socket
import struct

import pytest
from checker import LARGE, SMALL_BUFFER, BufferedRecorder, EofKeeper, Pieces, Recorder, fill, polled, receive_exactly

# --- reading --------------------------------------------------------------------------------------


async def test_data_arrives_as_bytes(loop, stream):
    kinds = set()

    class Protocol(Recorder):
        def data_received(self, data):
            kinds.add(type(data))
            super().data_received(data)

    _, protocol, peer = await stream(Protocol())
    await loop.sock_sendall(peer, b"input")
    assert await protocol.received(5) == b"input"
    assert kinds == {bytes}


async def test_what_was_received_is_not_changed_by_what_comes_later(loop, stream):
    chunks = []

    class Protocol(Recorder):
        def data_received(self, data):
            chunks.append(data)
            super().data_received(data)

    _, protocol, peer = await stream(Protocol())
    for number in range(100):
        await loop.sock_sendall(peer, b"%04d" % number)
        await protocol.received(4 * (number + 1))
    assert b"".join(chunks) == b"".join(b"%04d" % number for number in range(100))


async def test_much_data_arrives_complete(loop, stream):
    _, protocol, peer = await stream(Recorder())
    _, received = await asyncio.gather(loop.sock_sendall(peer, LARGE), protocol.received(len(LARGE)))
    assert received == LARGE


# Growing, shrinking, again and again the same: what was read last says nothing of what comes next.
SIZES = [100, 50_000, 50_000, 200_000, 32_768, 1, 262_144, 262_144, 40_000, 40_001, 39_999, 600_000, 7]


async def test_pieces_of_changing_sizes_arrive_complete(loop, stream):
    transport, protocol, peer = await stream(Pieces())
    for sock in (peer, transport.get_extra_info("socket")):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sent = b""
    for number, size in enumerate(SIZES):
        piece = bytes([number]) * size
        sent += piece
        transport.pause_reading()
        sending = asyncio.ensure_future(loop.sock_sendall(peer, piece))
        await polled(loop)
        transport.resume_reading()
        assert await protocol.received(len(sent)) == sent
        await sending
    assert b"".join(protocol.pieces) == sent
    assert max(map(len, protocol.pieces)) > 65_536


@pytest.mark.parametrize("size", [50_000, 262_144])
async def test_the_end_comes_after_a_large_piece(loop, stream, size):
    _, protocol, peer = await stream(Pieces())
    for count in (1, 2):
        await loop.sock_sendall(peer, LARGE[:size])
        await protocol.received(count * size)
    peer.close()
    assert await protocol.lost is None
    assert protocol.data == 2 * LARGE[:size]


async def test_a_reset_comes_after_a_large_piece(loop, stream):
    _, protocol, peer = await stream(Pieces())
    for count in (1, 2):
        await loop.sock_sendall(peer, LARGE[:50_000])
        await protocol.received(count * 50_000)
    if peer.family == socket.AF_UNIX:
        pytest.skip("Unix sockets are not reset by lingering")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    assert type(await protocol.lost) is ConnectionResetError


async def test_much_data_arrives_complete_in_a_buffer_of_the_protocol(loop, stream):
    _, protocol, peer = await stream(BufferedRecorder(65536))
    _, received = await asyncio.gather(loop.sock_sendall(peer, LARGE), protocol.received(len(LARGE)))
    assert received == LARGE


@pytest.mark.parametrize("size", [1, 7, 4096])
async def test_a_buffered_protocol_gets_no_more_than_its_buffer_holds(loop, stream, size):
    _, protocol, peer = await stream(BufferedRecorder(size))
    await loop.sock_sendall(peer, LARGE[:5000])
    assert await protocol.received(5000) == LARGE[:5000]


async def test_a_buffered_protocol_is_asked_for_any_size(loop, stream):
    hints = []

    class Protocol(BufferedRecorder):
        def get_buffer(self, sizehint):
            hints.append(sizehint)
            return memoryview(self.buffer)

    _, protocol, peer = await stream(Protocol())
    await loop.sock_sendall(peer, b"x")
    await protocol.received(1)
    assert all(hint == -1 or hint > 0 for hint in hints)


async def test_pause_reading_holds_the_data_back(loop, stream):
    transport, protocol, peer = await stream(Recorder())
    transport.pause_reading()
    assert not transport.is_reading()
    await loop.sock_sendall(peer, b"held")
    await polled(loop)
    assert protocol.data == b""
    transport.resume_reading()
    assert transport.is_reading()
    assert await protocol.received(4) == b"held"


async def test_pause_reading_in_connection_made_holds_the_first_data_back(loop, stream):
    class Protocol(Recorder):
        def connection_made(self, transport):
            transport.pause_reading()
            super().connection_made(transport)

    transport, protocol, peer = await stream(Protocol())
    await loop.sock_sendall(peer, b"held")
    await polled(loop)
    assert protocol.data == b""
    transport.resume_reading()
    assert await protocol.received(4) == b"held"


async def test_pause_reading_in_data_received_holds_the_rest_back(loop, stream):
    class Protocol(BufferedRecorder):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.pause_reading()

    transport, protocol, peer = await stream(Protocol(3))
    await loop.sock_sendall(peer, b"onetwo")
    await protocol.received(3)
    await polled(loop)
    assert protocol.data == b"one"
    transport.resume_reading()
    assert await protocol.received(6) == b"onetwo"


async def test_pausing_and_resuming_twice_is_harmless(loop, stream):
    transport, protocol, peer = await stream(Recorder())
    transport.resume_reading()
    transport.pause_reading()
    transport.pause_reading()
    transport.resume_reading()
    transport.resume_reading()
    await loop.sock_sendall(peer, b"x")
    assert await protocol.received(1) == b"x"


async def test_many_pauses_lose_nothing(loop, stream):
    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()
            loop.call_soon(self.transport.resume_reading)

    _, protocol, peer = await stream(Protocol())
    _, received = await asyncio.gather(loop.sock_sendall(peer, LARGE[: 1 << 20]), protocol.received(1 << 20))
    assert received == LARGE[: 1 << 20]


async def test_the_end_is_not_seen_while_reading_is_paused(loop, stream):
    transport, protocol, peer = await stream(EofKeeper())
    transport.pause_reading()
    peer.shutdown(socket.SHUT_WR)
    await polled(loop)
    assert "eof_received" not in protocol.calls
    transport.resume_reading()
    await protocol.called("eof_received")


# --- changing the protocol ------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [(Recorder, BufferedRecorder), (BufferedRecorder, Recorder), (Recorder, Recorder)])
async def test_set_protocol_sends_the_rest_to_the_new_protocol(loop, stream, kinds):
    first, second = kinds
    transport, old, peer = await stream(first())
    new = second()
    await loop.sock_sendall(peer, b"old")
    await old.received(3)
    transport.set_protocol(new)
    assert transport.get_protocol() is new
    await loop.sock_sendall(peer, b"new")
    assert await new.received(3) == b"new"
    assert old.data == b"old"
    assert new.calls[0] in ("data_received", "buffer_updated")  # connection_made is not repeated
    transport.close()
    assert await new.lost is None
    assert not old.lost.done()
    old.lost.set_result(None)


async def test_set_protocol_inside_data_received_takes_effect_at_once(loop, stream):
    class Upgrading(BufferedRecorder):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.set_protocol(new)

    new = Recorder()
    transport, old, peer = await stream(Upgrading(3))
    await loop.sock_sendall(peer, b"oldnew")
    assert await new.received(3) == b"new"
    assert old.data == b"old"
    transport.set_protocol(old)


async def test_the_new_protocol_gets_the_flow_control(loop, stream):
    transport, old, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=0)
    written = fill(transport)
    new = Recorder()
    transport.set_protocol(new)
    await receive_exactly(loop, peer, len(written))
    await new.called("resume_writing")
    assert old.calls == ["connection_made", "pause_writing"]
    transport.set_protocol(old)
