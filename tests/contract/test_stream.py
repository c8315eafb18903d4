"""Stream transports: what every one of them promises, over TCP and over a Unix socket pair."""

import array
import asyncio
import hashlib
import itertools
import logging
import random
import socket
import sys

import pytest
from checker import BufferedRecorder, EofKeeper, Recorder, fill, polled, receive_all, receive_exactly

LARGE = bytes(itertools.islice(itertools.cycle(hashlib.sha256(b"velodrome").digest()), 8 << 20))
SMALL_BUFFER = 16384  # what the peer's kernel holds where a test has to fill it


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


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_any_bytes_can_be_written(loop, stream, kind):
    transport, _, peer = await stream(Recorder())
    assert transport.write(kind(b"output")) is None
    assert await receive_exactly(loop, peer, 6) == b"output"


async def test_a_view_of_numbers_is_written_as_its_bytes(loop, stream):
    transport, _, peer = await stream(Recorder())
    numbers = array.array("i", range(100))
    transport.write(memoryview(numbers))
    assert await receive_exactly(loop, peer, 400) == numbers.tobytes()


async def test_a_part_of_a_view_is_written(loop, stream):
    transport, _, peer = await stream(Recorder())
    transport.write(memoryview(b"0123456789")[3:6])
    assert await receive_exactly(loop, peer, 3) == b"345"


@pytest.mark.parametrize(
    "data", ["text", 5, None, [b"list"], object(), array.array("i", [1])], ids=lambda data: type(data).__name__
)
async def test_what_is_no_bytes_cannot_be_written(loop, stream, data):
    transport, _, peer = await stream(Recorder())
    with pytest.raises(TypeError, match=f"^data argument must be a .* object, not {type(data).__name__!r}$"):
        transport.write(data)
    transport.write(b"still open")
    assert await receive_exactly(loop, peer, 10) == b"still open"


async def test_a_view_with_gaps_never_sends_wrong_bytes(loop, stream, reports):
    transport, protocol, peer = await stream(Recorder())
    try:
        transport.write(memoryview(b"a-b-c-")[::2])
    except BufferError:
        transport.close()
    received = await receive_all(loop, peer) if transport.is_closing() else await receive_exactly(loop, peer, 3)
    assert received in (b"", b"abc")
    if received == b"":
        assert isinstance(await protocol.lost, BufferError | None)
    reports.clear()


async def test_writes_arrive_in_order(loop, stream):
    transport, _, peer = await stream(Recorder())
    pieces = [b"%d," % number for number in range(2000)]
    for piece in pieces:
        transport.write(piece)
    whole = b"".join(pieces)
    assert await receive_exactly(loop, peer, len(whole)) == whole


async def test_writes_of_many_turns_arrive_in_order(loop, stream):
    transport, _, peer = await stream(Recorder())
    expected = bytearray()
    for turn in range(50):
        for count in range(turn % 4):
            piece = b"%d.%d," % (turn, count)
            transport.write(piece)
            expected += piece
        await asyncio.sleep(0)
    assert await receive_exactly(loop, peer, len(expected)) == expected


async def test_writing_nothing_sends_nothing(loop, stream):
    transport, _, peer = await stream(Recorder())
    transport.write(b"")
    transport.writelines([])
    transport.write(b"something")
    assert await receive_exactly(loop, peer, 9) == b"something"


async def test_much_data_is_sent_complete(loop, stream):
    transport, _, peer = await stream(Recorder())
    transport.write(LARGE)
    assert await receive_exactly(loop, peer, len(LARGE)) == LARGE
    await polled(loop)
    assert transport.get_write_buffer_size() == 0


async def test_much_data_goes_both_ways_at_once(loop, stream):
    transport, protocol, peer = await stream(Recorder())
    transport.write(LARGE)
    _, sent, received = await asyncio.gather(
        loop.sock_sendall(peer, LARGE), receive_exactly(loop, peer, len(LARGE)), protocol.received(len(LARGE))
    )
    assert sent == received == LARGE


@pytest.mark.parametrize("blocked", [False, True], ids=["room", "no room"])
async def test_writelines_sends_all_of_them_in_order(loop, stream, blocked):
    transport, _, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    before = fill(transport) if blocked else b""
    transport.writelines([b"one", bytearray(b"two"), memoryview(b"three")])
    transport.writelines(part for part in (b"four", b"five"))
    expected = before + b"onetwothreefourfive"
    assert await receive_exactly(loop, peer, len(expected)) == expected


@pytest.mark.differs(
    "asyncio keeps an empty last piece for ever, and so never ends the connection",
    when=(3, 12) <= sys.version_info < (3, 14),
)
async def test_an_empty_piece_does_not_hold_the_end_back(loop, stream):
    transport, protocol, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    transport.writelines([b"last", b""])
    transport.close()
    assert await receive_exactly(loop, peer, len(written) + 4) == written + b"last"
    await polled(loop)
    assert protocol.lost.done()


async def test_writelines_takes_more_pieces_than_the_system_does_at_once(loop, stream):
    transport, _, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    pieces = [b"%06d" % number for number in range(50_000)]
    transport.writelines(pieces)
    assert await receive_exactly(loop, peer, 300_000) == b"".join(pieces)


async def test_writelines_refuses_text(stream):
    transport, _, _ = await stream(Recorder())
    with pytest.raises(TypeError):
        transport.writelines(["text"])


async def test_write_returns_before_the_peer_reads(loop, stream):
    transport, _, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    assert 0 < transport.get_write_buffer_size() <= len(written)
    assert await receive_exactly(loop, peer, len(written)) == written
    await polled(loop)
    assert transport.get_write_buffer_size() == 0


@pytest.mark.differs("asyncio keeps the buffer itself and sends what it holds later", when=sys.version_info >= (3, 12))
async def test_a_bytearray_changed_after_write_does_not_change_what_is_sent(loop, stream):
    transport, _, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    before = fill(transport)
    data = bytearray(b"original")
    transport.write(data)
    data[:] = b"changed!"
    assert (await receive_exactly(loop, peer, len(before) + 8))[-8:] == b"original"


@pytest.mark.differs("asyncio keeps the buffer itself and sends what it holds later", when=sys.version_info >= (3, 12))
async def test_a_bytearray_changed_after_writelines_does_not_change_what_is_sent(loop, stream):
    transport, _, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    before = fill(transport)
    data = bytearray(b"original")
    transport.writelines([data])
    data[:] = b"changed!"
    assert (await receive_exactly(loop, peer, len(before) + 8))[-8:] == b"original"


@pytest.mark.differs("asyncio exports the bytearray until it is sent", when=sys.version_info >= (3, 12))
async def test_a_bytearray_can_be_resized_after_write(loop, stream):
    transport, _, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    data = bytearray(LARGE)
    transport.write(data)
    data.clear()
    assert await receive_exactly(loop, peer, len(LARGE)) == LARGE


async def test_the_peer_can_read_before_the_writing_callback_ends(stream):
    """A first write goes out at once: a program may wait for its effect in the same callback."""
    transport, _, peer = await stream(Recorder())
    transport.write(b"now")
    peer.settimeout(30)
    assert peer.recv(3) == b"now"
    peer.setblocking(False)


# --- flow control ---------------------------------------------------------------------------------


async def test_the_default_limits_are_asyncios(stream):
    transport, _, _ = await stream(Recorder())
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({}, (16 * 1024, 64 * 1024)),
        ({"high": 1000}, (250, 1000)),
        ({"low": 100}, (100, 400)),
        ({"high": 1000, "low": 1000}, (1000, 1000)),
        ({"high": 0}, (0, 0)),
        ({"high": 10, "low": 0}, (0, 10)),
        ({"low": 0}, (0, 0)),
    ],
)
async def test_limits_can_be_set(stream, options, limits):
    transport, _, _ = await stream(Recorder())
    transport.set_write_buffer_limits(**options)
    assert transport.get_write_buffer_limits() == limits


@pytest.mark.parametrize("options", [{"high": 1, "low": 2}, {"high": -1}, {"low": -1}, {"high": 10, "low": -1}])
async def test_limits_that_make_no_sense_are_refused(stream, options):
    transport, _, _ = await stream(Recorder())
    with pytest.raises(ValueError, match=r"high \(.*\) must be >= low \(.*\) must be >= 0"):
        transport.set_write_buffer_limits(**options)
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)


async def test_pause_writing_is_called_once_inside_the_write_that_goes_above_the_limit(stream):
    transport, protocol, _ = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=1 << 30)
    fill(transport)
    held = transport.get_write_buffer_size()
    transport.set_write_buffer_limits(high=held + 100, low=10)
    transport.write(bytes(100))
    assert transport.get_write_buffer_size() == held + 100
    assert "pause_writing" not in protocol.calls
    transport.write(bytes(1))
    assert protocol.calls.count("pause_writing") == 1
    transport.write(bytes(1000))
    assert protocol.calls.count("pause_writing") == 1
    assert "resume_writing" not in protocol.calls


async def test_resume_writing_is_called_once_when_the_buffer_is_low(loop, stream):
    class Protocol(Recorder):
        def resume_writing(self):
            sizes.append(self.transport.get_write_buffer_size())
            super().resume_writing()

    sizes = []
    transport, protocol, peer = await stream(Protocol(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=100_000, low=50_000)
    written = fill(transport)
    while "pause_writing" not in protocol.calls:
        transport.write(bytes(1000))
        written += bytes(1000)
    assert await receive_exactly(loop, peer, len(written)) == written
    await polled(loop)
    assert protocol.calls.count("pause_writing") == protocol.calls.count("resume_writing") == 1
    assert len(sizes) == 1 and sizes[0] <= 50_000


async def test_a_limit_of_zero_pauses_on_anything_held_and_resumes_when_empty(loop, stream):
    transport, protocol, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=0)
    written = fill(transport)
    assert protocol.calls.count("pause_writing") == 1
    assert await receive_exactly(loop, peer, len(written)) == written
    await protocol.called("resume_writing")
    assert transport.get_write_buffer_size() == 0


async def test_writing_pauses_and_resumes_again_and_again(loop, stream):
    transport, protocol, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=0)
    for turn in range(1, 4):
        written = fill(transport)
        assert await receive_exactly(loop, peer, len(written)) == written
        await protocol.until(lambda turn=turn: protocol.calls.count("resume_writing") == turn)
    assert [call for call in protocol.calls if call.endswith("writing")] == ["pause_writing", "resume_writing"] * 3


async def test_writing_does_not_pause_while_the_system_takes_everything(loop, stream):
    transport, protocol, peer = await stream(Recorder())
    transport.set_write_buffer_limits(high=0)
    for _ in range(20):
        transport.write(b"small")
        assert await receive_exactly(loop, peer, 5) == b"small"
    assert protocol.calls == ["connection_made"]


async def test_writing_does_not_resume_after_the_end(stream):
    transport, protocol, _ = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=0)
    fill(transport)
    transport.abort()
    await protocol.lost
    assert protocol.calls == ["connection_made", "pause_writing", "connection_lost"]


# --- half close -----------------------------------------------------------------------------------


async def test_write_eof_ends_the_stream_after_the_data(loop, stream):
    transport, _, peer = await stream(Recorder())
    assert transport.can_write_eof() is True
    transport.write(b"the last words")
    transport.write_eof()
    assert await receive_all(loop, peer) == b"the last words"


async def test_write_eof_waits_for_what_is_held(loop, stream):
    transport, _, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    transport.write_eof()
    assert await receive_all(loop, peer) == written


async def test_reading_goes_on_after_write_eof(loop, stream):
    transport, protocol, peer = await stream(Recorder())
    transport.write_eof()
    assert await receive_all(loop, peer) == b""
    await loop.sock_sendall(peer, b"answer")
    assert await protocol.received(6) == b"answer"
    assert not transport.is_closing()


async def test_writing_after_write_eof_is_an_error(stream):
    transport, _, _ = await stream(Recorder())
    transport.write_eof()
    with pytest.raises(RuntimeError, match=r"^Cannot call write\(\) after write_eof\(\)$"):
        transport.write(b"x")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="writelines() of 3.11 is write() of everything joined")
async def test_writelines_after_write_eof_is_an_error(stream):
    transport, _, _ = await stream(Recorder())
    transport.write_eof()
    with pytest.raises(RuntimeError, match=r"^Cannot call writelines\(\) after write_eof\(\)$"):
        transport.writelines([b"x"])


async def test_write_eof_twice_is_harmless(loop, stream):
    transport, _, peer = await stream(Recorder())
    transport.write_eof()
    transport.write_eof()
    assert await receive_all(loop, peer) == b""


async def test_write_eof_after_close_is_harmless(stream):
    transport, protocol, _ = await stream(Recorder())
    transport.close()
    transport.write_eof()
    assert await protocol.lost is None


async def test_the_end_of_the_peer_closes_the_transport(loop, stream):
    transport, protocol, peer = await stream(Recorder())
    await loop.sock_sendall(peer, b"the last words")
    peer.shutdown(socket.SHUT_WR)
    assert await protocol.lost is None
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
    assert protocol.data == b"the last words"
    assert transport.is_closing()


async def test_eof_received_may_keep_the_transport_open_to_write(loop, stream):
    transport, protocol, peer = await stream(EofKeeper())
    peer.shutdown(socket.SHUT_WR)
    await protocol.called("eof_received")
    await polled(loop)
    assert protocol.calls.count("eof_received") == 1
    assert not transport.is_closing()
    transport.write(b"answer")
    transport.close()
    assert await receive_all(loop, peer) == b"answer"
    assert await protocol.lost is None


async def test_the_end_of_the_peer_does_not_lose_what_is_held(loop, stream):
    transport, protocol, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    peer.shutdown(socket.SHUT_WR)
    await protocol.called("eof_received")
    assert await receive_all(loop, peer) == written
    assert await protocol.lost is None


# --- the end --------------------------------------------------------------------------------------


async def test_close_calls_connection_lost_later_and_once(loop, stream):
    transport, protocol, peer = await stream(Recorder())
    assert transport.close() is None
    assert transport.is_closing()
    assert "connection_lost" not in protocol.calls
    transport.close()
    assert await protocol.lost is None
    transport.close()
    await polled(loop)
    assert protocol.calls == ["connection_made", "connection_lost"]
    assert await loop.sock_recv(peer, 1) == b""


async def test_close_sends_what_is_held(loop, stream):
    transport, protocol, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    transport.close()
    await polled(loop)
    assert not protocol.lost.done()
    assert await receive_all(loop, peer) == written
    assert await protocol.lost is None


async def test_close_right_after_a_write_sends_it(loop, stream):
    transport, protocol, peer = await stream(Recorder())
    for piece in (b"several ", b"small ", b"writes"):
        transport.write(piece)
    transport.close()
    assert await receive_all(loop, peer) == b"several small writes"
    assert await protocol.lost is None


async def test_nothing_is_received_after_close(loop, stream):
    transport, protocol, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    fill(transport)
    await loop.sock_sendall(peer, b"too late")
    transport.close()
    await polled(loop)
    assert protocol.data == b""
    assert not transport.is_reading()


async def test_abort_drops_what_is_held(loop, stream):
    transport, protocol, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    transport.abort()
    assert transport.is_closing()
    assert not protocol.lost.done()
    assert await protocol.lost is None
    received = bytearray()
    try:
        while chunk := await loop.sock_recv(peer, 1 << 20):
            received += chunk
    except ConnectionResetError:
        pass
    assert len(received) < len(written)


async def test_abort_twice_calls_connection_lost_once(loop, stream):
    transport, protocol, _ = await stream(Recorder())
    transport.abort()
    transport.abort()
    await protocol.lost
    transport.abort()
    await polled(loop)
    assert protocol.calls == ["connection_made", "connection_lost"]


@pytest.mark.differs("asyncio raises AttributeError", when=sys.version_info < (3, 14))
async def test_abort_after_a_close_that_had_to_wait_is_harmless(loop, stream):
    transport, protocol, peer = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    fill(transport)
    transport.close()
    await receive_all(loop, peer)
    await protocol.lost
    transport.abort()
    assert protocol.calls.count("connection_lost") == 1


async def test_abort_ends_a_close_that_waits_for_the_peer(stream):
    transport, protocol, _ = await stream(Recorder(), receive_buffer=SMALL_BUFFER)
    fill(transport)
    transport.close()
    transport.abort()
    assert await protocol.lost is None
    assert protocol.calls.count("connection_lost") == 1


async def test_writing_after_close_is_ignored(loop, stream):
    transport, protocol, peer = await stream(Recorder())
    transport.write(b"before")
    transport.close()
    transport.write(b"after")
    await protocol.lost
    transport.write(b"long after")
    assert await receive_all(loop, peer) == b"before"


async def test_writing_again_and_again_to_a_lost_connection_is_logged(stream, caplog):
    transport, protocol, _ = await stream(Recorder())
    transport.abort()
    await protocol.lost
    for _ in range(3):
        transport.write(b"x")
    assert caplog.records == []
    for _ in range(5):
        transport.write(b"x")
    assert {record.getMessage() for record in caplog.records} == {"socket.send() raised exception."}
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_a_closed_transport_answers_harmlessly(stream):
    transport, protocol, _ = await stream(Recorder())
    transport.close()
    await protocol.lost
    assert transport.is_closing()
    assert not transport.is_reading()
    assert transport.get_write_buffer_size() == 0
    transport.close()
    transport.abort()
    transport.pause_reading()
    transport.resume_reading()
    transport.write_eof()
    assert "closed" in repr(transport)


async def test_repr_shows_the_state(stream):
    transport, protocol, _ = await stream(Recorder())
    assert f"fd={transport.get_extra_info('socket').fileno()} " in repr(transport)
    transport.close()
    assert "closing" in repr(transport)
    await protocol.lost
    await asyncio.sleep(0)
    assert "closed" in repr(transport)


async def test_a_reset_by_the_peer_is_an_error_of_the_connection(loop, tcp_pair):
    one, peer = tcp_pair
    transport, protocol = await loop.create_connection(Recorder, sock=one)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    assert isinstance(await protocol.lost, ConnectionResetError)
    assert "eof_received" not in protocol.calls
    assert transport.is_closing()


async def test_a_write_after_a_reset_ends_the_connection_once(loop, tcp_pair):
    one, peer = tcp_pair
    transport, protocol = await loop.create_connection(Recorder, sock=one)
    transport.pause_reading()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    while not transport.is_closing():
        transport.write(b"x")
        await asyncio.sleep(0)
    assert isinstance(await protocol.lost, ConnectionResetError | BrokenPipeError)
    await polled(loop)
    assert protocol.calls.count("connection_lost") == 1


async def test_a_broken_pipe_ends_the_connection(loop, socket_pair):
    one, peer = socket_pair
    transport, protocol = await loop.create_connection(Recorder, sock=one)
    transport.pause_reading()
    peer.close()
    transport.write(b"x")
    assert isinstance(await protocol.lost, BrokenPipeError)


async def test_a_peer_that_is_gone_ends_a_transport_that_waits_to_write(loop, socket_pair):
    one, peer = socket_pair
    transport, protocol = await loop.create_connection(EofKeeper, sock=one)
    fill(transport)
    peer.close()
    assert isinstance(await protocol.lost, BrokenPipeError | ConnectionResetError)
    assert transport.get_write_buffer_size() == 0


async def test_the_socket_is_closed_after_connection_lost(stream):
    class Protocol(Recorder):
        def connection_lost(self, exc):
            open_inside.append(self.transport.get_extra_info("socket").fileno() >= 0)
            super().connection_lost(exc)

    open_inside = []
    transport, protocol, _ = await stream(Protocol())
    sock = transport.get_extra_info("socket")
    transport.close()
    await protocol.lost
    await asyncio.sleep(0)
    assert open_inside == [True]
    assert sock.fileno() == -1


# --- extra info -----------------------------------------------------------------------------------


async def test_extra_info_has_the_addresses(stream):
    transport, _, peer = await stream(Recorder())
    assert transport.get_extra_info("peername") == peer.getsockname()
    assert transport.get_extra_info("sockname") == peer.getpeername()


async def test_extra_info_has_a_socket_that_cannot_read_or_write(stream):
    transport, _, peer = await stream(Recorder())
    sock = transport.get_extra_info("socket")
    assert type(sock) is asyncio.trsock.TransportSocket
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


class Wayward(Recorder):
    """Reads, pauses, changes its protocol and writes as its random numbers say; keeps what went each way."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = numbers
        self.written = bytearray()

    def misbehave(self):
        transport, numbers = self.transport, self.numbers
        for _ in range(numbers.randrange(4)):
            data = numbers.randbytes(numbers.choice((0, 1, 10, 1000, 70_000)))
            self.written += data
            match numbers.randrange(4):
                case 0:
                    transport.write(bytearray(data))
                case 1:
                    transport.writelines([piece for piece in (data[:5], memoryview(data)[5:]) if piece])
                case _:
                    transport.write(data)
        if numbers.randrange(3) == 0:
            transport.pause_reading()
            asyncio.get_running_loop().call_later(numbers.random() / 1000, transport.resume_reading)
        if numbers.randrange(3) == 0:
            transport.set_protocol(self.buffered if transport.get_protocol() is self else self)

    def connection_made(self, transport):
        super().connection_made(transport)
        self.buffered = BufferedSide(self, self.numbers.choice((1, 100, 70_000)))

    def data_received(self, data):
        super().data_received(data)
        self.misbehave()


class BufferedSide(asyncio.BufferedProtocol):
    """The same protocol, reading into a buffer."""

    def __init__(self, plain, size):
        self.plain = plain
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.plain.data_received(bytes(self.buffer[:count]))

    def connection_lost(self, exc):
        self.plain.connection_lost(exc)

    def eof_received(self):
        return self.plain.eof_received()

    def pause_writing(self):
        self.plain.pause_writing()

    def resume_writing(self):
        self.plain.resume_writing()


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
