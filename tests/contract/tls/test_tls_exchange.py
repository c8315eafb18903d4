"""TLS transports: the beginning, what they write and what they read; as clients and servers, and after start_tls."""

import array
import asyncio
import contextlib
import random
import ssl

import pytest
from checker import LARGE, SMALL_BUFFER, BufferedRecorder, Recorder, Wayward, fill, polled
from tls_checker import ViewRecorder

# --- the beginning --------------------------------------------------------------------------------


async def test_connection_made_comes_first_and_once(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    await peer.send(b"x")
    await protocol.received(1)
    assert protocol.calls == ["connection_made", "data_received"]
    assert protocol.transport is transport


async def test_a_tls_transport_is_an_asyncio_transport(loop, tls_stream):
    transport, protocol, _ = await tls_stream(Recorder())
    assert isinstance(transport, asyncio.Transport)
    assert transport.get_protocol() is protocol
    assert not transport.is_closing()
    assert transport.is_reading()


async def test_what_is_written_in_connection_made_arrives(loop, tls_stream):
    class Greeter(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            if not tls_stream.kind.startswith("upgraded"):
                transport.write(b"hello")

    transport, _, peer = await tls_stream(Greeter())
    if tls_stream.kind.startswith("upgraded"):  # connection_made was long ago
        transport.write(b"hello")
    assert await peer.receive_exactly(5) == b"hello"


async def test_data_that_comes_with_the_end_of_the_handshake_arrives(loop, tls_stream):
    """A peer may speak as soon as it is done, in the same packet."""

    class Eager(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.seen_when_made = bytes(self.data)

    _, protocol, peer = await tls_stream(Eager())
    await peer.send(b"at once")
    assert await protocol.received(7) == b"at once"
    assert protocol.seen_when_made == b""
    assert protocol.calls[0] == "connection_made"


# --- reading --------------------------------------------------------------------------------------


async def test_data_arrives_as_bytes(loop, tls_stream):
    kinds = set()

    class Protocol(Recorder):
        def data_received(self, data):
            kinds.add(type(data))
            super().data_received(data)

    _, protocol, peer = await tls_stream(Protocol())
    await peer.send(b"input")
    assert await protocol.received(5) == b"input"
    assert kinds == {bytes}


async def test_what_was_received_is_not_changed_by_what_comes_later(loop, tls_stream):
    chunks = []

    class Protocol(Recorder):
        def data_received(self, data):
            chunks.append(data)
            super().data_received(data)

    _, protocol, peer = await tls_stream(Protocol())
    for number in range(100):
        await peer.send(b"%04d" % number)
        await protocol.received(4 * (number + 1))
    assert b"".join(chunks) == b"".join(b"%04d" % number for number in range(100))


@pytest.mark.parametrize("protocol_class", [Recorder, lambda: ViewRecorder(65536)], ids=["plain", "buffered"])
async def test_much_data_arrives_complete(loop, tls_stream, protocol_class):
    _, protocol, peer = await tls_stream(protocol_class())
    _, received = await asyncio.gather(peer.send(LARGE), protocol.received(len(LARGE)))
    assert received == LARGE


@pytest.mark.parametrize("size", [1, 7, 4096])
async def test_a_buffered_protocol_gets_no_more_than_its_buffer_holds(loop, tls_stream, size):
    _, protocol, peer = await tls_stream(ViewRecorder(size))
    await peer.send(LARGE[:5000])
    assert await protocol.received(5000) == LARGE[:5000]


async def test_a_buffer_that_is_no_view_is_filled_too(loop, tls_stream):
    _, protocol, peer = await tls_stream(BufferedRecorder(100))
    await peer.send(b"x" * 100)
    assert await protocol.received(100) == b"x" * 100


async def test_records_larger_than_the_buffer_go_in_parts(loop, tls_stream):
    sizes = []

    class Protocol(ViewRecorder):
        def buffer_updated(self, count):
            sizes.append(count)
            super().buffer_updated(count)

    _, protocol, peer = await tls_stream(Protocol(1000))
    await peer.send(LARGE[:10_000])
    assert await protocol.received(10_000) == LARGE[:10_000]
    assert max(sizes) <= 1000 and min(sizes) > 0


async def test_a_buffered_protocol_may_change_its_buffer_at_each_call(loop, tls_stream):
    class Protocol(ViewRecorder):
        def get_buffer(self, sizehint):
            self.buffer = bytearray(1 + len(self.data) % 50)
            return memoryview(self.buffer)

    _, protocol, peer = await tls_stream(Protocol())
    await peer.send(LARGE[:5000])
    assert await protocol.received(5000) == LARGE[:5000]


async def test_records_in_pieces_are_put_together(loop, tls_stream):
    """Whatever the packets: byte by byte, the header of a record alone, a record and a half."""
    _, protocol, peer = await tls_stream(Recorder())
    for text in (b"first", b"second", b"third"):
        peer.ssl.write(text)
    records = peer.outgoing.read()
    for piece in (records[:1], records[1:5], records[5:6], records[6:50], records[50:]):
        await peer.wire.send(piece)
        await polled(loop)
    assert await protocol.received(16) == b"firstsecondthird"


async def test_a_record_without_data_is_nothing(loop, tls_stream):
    _, protocol, peer = await tls_stream(Recorder())
    await peer.send(b"")
    peer.ssl.write(b"")
    await peer.flush()
    await peer.send(b"something")
    assert await protocol.received(9) == b"something"
    assert protocol.calls.count("eof_received") == 0


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_any_bytes_can_be_written(loop, tls_stream, kind):
    transport, _, peer = await tls_stream(Recorder())
    assert transport.write(kind(b"output")) is None
    assert await peer.receive_exactly(6) == b"output"


async def test_a_view_of_numbers_is_written_as_its_bytes(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder())
    numbers = array.array("i", range(100))
    transport.write(memoryview(numbers))
    assert await peer.receive_exactly(400) == numbers.tobytes()


async def test_a_part_of_a_view_is_written(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder())
    transport.write(memoryview(b"0123456789")[3:6])
    assert await peer.receive_exactly(3) == b"345"


@pytest.mark.parametrize(
    "data", ["text", 5, None, [b"list"], object(), array.array("i", [1])], ids=lambda data: type(data).__name__
)
async def test_what_is_no_bytes_cannot_be_written(loop, tls_stream, data):
    transport, _, peer = await tls_stream(Recorder())
    with pytest.raises(TypeError, match=f"^data: expecting a bytes-like instance, got {type(data).__name__}$"):
        transport.write(data)
    transport.write(b"still open")
    assert await peer.receive_exactly(10) == b"still open"


async def test_a_view_with_gaps_never_sends_wrong_bytes(loop, tls_stream, reports):
    transport, protocol, peer = await tls_stream(Recorder())
    try:
        transport.write(memoryview(b"a-b-c-")[::2])
    except BufferError:
        transport.write(b"abc")
    await polled(loop)
    if protocol.lost.done():
        assert isinstance(await protocol.lost, BufferError)
        assert isinstance(reports.take()["exception"], BufferError)
    else:
        assert await peer.receive_exactly(3) == b"abc"


async def test_writes_arrive_in_order(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder())
    pieces = [b"%d," % number for number in range(2000)]
    for piece in pieces:
        transport.write(piece)
    whole = b"".join(pieces)
    assert await peer.receive_exactly(len(whole)) == whole


async def test_writes_of_many_turns_arrive_in_order(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder())
    expected = bytearray()
    for turn in range(50):
        for count in range(turn % 4):
            piece = b"%d.%d," % (turn, count)
            transport.write(piece)
            expected += piece
        await asyncio.sleep(0)
    assert await peer.receive_exactly(len(expected)) == expected


@pytest.mark.parametrize("size", [16383, 16384, 16385, 5 * 16384 + 1])
async def test_writes_of_about_a_record_arrive(loop, tls_stream, size):
    transport, _, peer = await tls_stream(Recorder())
    transport.write(LARGE[:size])
    assert await peer.receive_exactly(size) == LARGE[:size]


async def test_writing_nothing_sends_nothing(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.write(b"before")
    assert await peer.receive_exactly(6) == b"before"
    transport.write(b"")
    transport.writelines([])
    await polled(loop)
    with pytest.raises(BlockingIOError):
        peer.sock.recv(1)
    transport.write(b"after")
    assert await peer.receive_exactly(5) == b"after"


async def test_much_data_is_sent_complete(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder())
    transport.write(LARGE)
    assert await peer.receive_exactly(len(LARGE)) == LARGE
    await polled(loop)
    assert transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("protocol_class", [Recorder, lambda: ViewRecorder(65536)], ids=["plain", "buffered"])
async def test_much_data_goes_both_ways_at_once(loop, tls_stream, protocol_class):
    transport, protocol, peer = await tls_stream(protocol_class())
    transport.write(LARGE)
    _, sent, received = await asyncio.gather(
        peer.send(LARGE), peer.receive_exactly(len(LARGE)), protocol.received(len(LARGE))
    )
    assert sent == LARGE
    assert received == LARGE


@pytest.mark.parametrize("blocked", [False, True], ids=["room", "no room"])
async def test_writelines_sends_all_of_them_in_order(loop, tls_stream, blocked):
    transport, _, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    before = fill(transport) if blocked else b""
    transport.writelines([b"one", b"", bytearray(b"two"), memoryview(b"three")])
    transport.writelines(part for part in (b"four", b"five"))
    expected = before + b"onetwothreefourfive"
    assert await peer.receive_exactly(len(expected)) == expected


async def test_writelines_takes_many_pieces(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    pieces = [b"%06d" % number for number in range(5000)]
    transport.writelines(pieces)
    assert await peer.receive_exactly(30_000) == b"".join(pieces)


async def test_an_empty_piece_does_not_hold_the_end_back(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    transport.writelines([b"last", b""])
    transport.close()
    assert await peer.receive_all() == written + b"last"
    await peer.close_notify()
    assert await protocol.lost is None


async def test_writelines_never_sends_text(loop, tls_stream, reports):
    transport, protocol, peer = await tls_stream(Recorder())
    try:
        transport.writelines(["text"])
    except TypeError:
        transport.close()
    else:
        # asyncio finds it too late to say so.
        exc = await protocol.lost
        assert isinstance(exc, TypeError)
        context = reports.take()
        assert context["exception"] is exc
        assert context["message"] == "Fatal error on SSL protocol"
    with contextlib.suppress(OSError):  # the end, announced or not
        assert await peer.receive() == b""


@pytest.mark.parametrize("blocked", [False, True], ids=["room", "no room"])
@pytest.mark.parametrize("method", ["write", "writelines"])
async def test_a_bytearray_changed_after_it_was_written_does_not_change_what_is_sent(
    loop, tls_stream, method, blocked
):
    transport, _, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    before = fill(transport) if blocked else b""
    data = bytearray(b"original")
    if method == "write":
        transport.write(data)
    else:
        transport.writelines([memoryview(data)])
    data[:] = b"changed!"
    assert (await peer.receive_exactly(len(before) + 8))[-8:] == b"original"


async def test_a_bytearray_can_be_resized_after_write(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    data = bytearray(LARGE)
    transport.write(data)
    data.clear()
    assert await peer.receive_exactly(len(LARGE)) == LARGE


async def test_the_peer_can_read_before_the_writing_callback_ends(loop, tls_stream):
    """A first write goes out at once: a program may wait for its effect in the same callback."""
    transport, _, peer = await tls_stream(Recorder())
    transport.write(b"now")
    peer.sock.settimeout(30)
    while True:
        peer.incoming.write(peer.sock.recv(65536))
        try:
            assert peer.ssl.read(3) == b"now"
            break
        except ssl.SSLWantReadError:
            pass  # a session ticket
    peer.sock.setblocking(False)


# --- both -----------------------------------------------------------------------------------------


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class BufferedEcho(ViewRecorder):
    def buffer_updated(self, count):
        super().buffer_updated(count)
        self.transport.write(memoryview(self.buffer)[:count])


@pytest.mark.parametrize("protocol_class", [Echo, BufferedEcho])
async def test_an_echo_answers_every_message(loop, tls_stream, protocol_class):
    _, _, peer = await tls_stream(protocol_class())
    for number in range(100):
        message = b"%05d" % number
        await peer.send(message)
        assert await peer.receive_exactly(5) == message


async def test_an_echo_of_two_writes_answers_every_message(loop, tls_stream):
    """Head and body: the pattern for which a transport may join its writes."""

    class HeadAndBody(Recorder):
        def data_received(self, data):
            self.transport.write(b"head:")
            self.transport.write(data)

    _, _, peer = await tls_stream(HeadAndBody())
    for number in range(100):
        message = b"%05d" % number
        await peer.send(message)
        assert await peer.receive_exactly(10) == b"head:" + message


@pytest.mark.parametrize("protocol_class", [Echo, BufferedEcho])
async def test_an_echo_of_much_data_is_complete(loop, tls_stream, protocol_class):
    _, _, peer = await tls_stream(protocol_class())
    _, received = await asyncio.gather(peer.send(LARGE[: 2 << 20]), peer.receive_exactly(2 << 20))
    assert received == LARGE[: 2 << 20]


async def test_many_streams_do_not_mix(loop, tls_stream):
    streams = [await tls_stream(Recorder()) for _ in range(20)]
    for number, (transport, _, peer) in enumerate(streams):
        transport.write(b"to peer %04d" % number)
        await peer.send(b"from peer %04d" % number)
    for number, (_, protocol, peer) in enumerate(streams):
        assert await peer.receive_exactly(12) == b"to peer %04d" % number
        assert await protocol.received(14) == b"from peer %04d" % number


@pytest.mark.parametrize("seed", range(4))
async def test_a_wayward_conversation_loses_nothing(loop, tls_stream, seed):
    numbers = random.Random(seed)
    transport, protocol, peer = await tls_stream(Wayward(numbers))
    protocol.transport = transport
    sent = bytearray()
    received = bytearray()

    async def send():
        for _ in range(100):
            data = numbers.randbytes(numbers.choice((1, 10, 1000, 20_000)))
            sent.extend(data)
            await peer.send(data)
            if numbers.randrange(5) == 0:
                await asyncio.sleep(numbers.random() / 2000)
        await protocol.until(lambda: len(protocol.data) == len(sent))
        transport.set_protocol(protocol)
        transport.resume_reading()
        transport.close()

    async def receive():
        received.extend(await peer.receive_all())
        await peer.close_notify()

    await asyncio.gather(send(), receive())
    assert protocol.data == sent
    assert received == protocol.written
    assert await protocol.lost is None


# --- changing the protocol ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kinds",
    [(Recorder, ViewRecorder), (ViewRecorder, Recorder), (Recorder, Recorder), (ViewRecorder, ViewRecorder)],
    ids=lambda kinds: " to ".join(kind.__name__ for kind in kinds),
)
async def test_set_protocol_sends_the_rest_to_the_new_protocol(loop, tls_stream, kinds):
    first, second = kinds
    transport, old, peer = await tls_stream(first())
    new = second()
    await peer.send(b"old")
    await old.received(3)
    transport.set_protocol(new)
    assert transport.get_protocol() is new
    await peer.send(b"new")
    assert await new.received(3) == b"new"
    assert old.data == b"old"
    assert new.calls[0] in ("data_received", "buffer_updated")  # connection_made is not repeated
    transport.close()
    await peer.unwrap()
    assert await new.lost is None
    assert not old.lost.done()
    old.lost.set_result(None)


async def test_set_protocol_inside_buffer_updated_takes_effect_at_once(loop, tls_stream):
    class Upgrading(ViewRecorder):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.set_protocol(new)

    new = Recorder()
    transport, old, peer = await tls_stream(Upgrading(3))
    await peer.send(b"oldnew")
    assert await new.received(3) == b"new"
    assert old.data == b"old"
    transport.set_protocol(old)


async def test_the_new_protocol_gets_the_flow_control(loop, tls_stream):
    transport, old, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=1000)
    written = fill(transport)
    assert old.calls[-1] == "pause_writing"
    new = Recorder()
    transport.set_protocol(new)
    await peer.receive_exactly(len(written))
    await new.called("resume_writing")
    assert old.calls == ["connection_made", "pause_writing"]
    transport.set_protocol(old)
