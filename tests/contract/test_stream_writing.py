"""Stream transports: what they write, and what they tell the protocol when it has to wait."""

import array
import asyncio
import sys

import pytest
from checker import LARGE, SMALL_BUFFER, Recorder, fill, polled, receive_all, receive_exactly

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


async def test_the_protocol_is_resumed_at_the_low_mark_while_the_rest_still_waits(loop, stream):
    class Protocol(Recorder):
        def resume_writing(self):
            sizes.append(self.transport.get_write_buffer_size())
            super().resume_writing()

    sizes = []
    transport, protocol, peer = await stream(Protocol(), receive_buffer=SMALL_BUFFER)
    # Far more than the kernel's buffers take at once, so that it goes out in many pieces.
    high, low = 32 << 20, 31 << 20
    transport.set_write_buffer_limits(high=high, low=low)
    written = fill(transport) + bytes(high)
    transport.write(bytes(high))
    assert protocol.calls.count("pause_writing") == 1
    received = bytearray()
    while not sizes:
        received += await receive_exactly(loop, peer, 1 << 16)
    assert 0 < sizes[0] <= low
    received += await receive_exactly(loop, peer, len(written) - len(received))
    assert received == written
    assert protocol.calls.count("pause_writing") == protocol.calls.count("resume_writing") == 1


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
