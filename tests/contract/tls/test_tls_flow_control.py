"""TLS transports: what they tell the protocol when it has to wait, and how they hold the peer back."""

import asyncio
import socket
import ssl

import pytest
from checker import LARGE, SMALL_BUFFER, EofKeeper, Recorder, fill, polled
from tls_checker import TlsPeer, ViewRecorder, Wire

# --- writing --------------------------------------------------------------------------------------


async def test_the_default_limits_are_asyncios(loop, tls_stream):
    transport, _, _ = await tls_stream(Recorder())
    assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({}, (128 * 1024, 512 * 1024)),
        ({"high": 1000}, (250, 1000)),
        ({"low": 100}, (100, 400)),
        ({"high": 1000, "low": 1000}, (1000, 1000)),
        ({"high": 0}, (0, 0)),
        ({"high": 10, "low": 0}, (0, 10)),
        ({"low": 0}, (0, 0)),
    ],
)
async def test_limits_can_be_set(loop, tls_stream, options, limits):
    transport, _, _ = await tls_stream(Recorder())
    transport.set_write_buffer_limits(**options)
    assert transport.get_write_buffer_limits() == limits


@pytest.mark.parametrize("options", [{"high": 1, "low": 2}, {"high": -1}, {"low": -1}, {"high": 10, "low": -1}])
async def test_limits_that_make_no_sense_are_refused(loop, tls_stream, options):
    transport, _, _ = await tls_stream(Recorder())
    with pytest.raises(ValueError, match=r"high \(.*\) must be >= low \(.*\) must be >= 0"):
        transport.set_write_buffer_limits(**options)
    assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)


async def test_write_returns_before_the_peer_reads(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    assert transport.get_write_buffer_size() > 0
    assert await peer.receive_exactly(len(written)) == written
    await polled(loop)
    assert transport.get_write_buffer_size() == 0


async def test_pause_writing_is_called_once_inside_the_write_that_goes_above_the_limit(loop, tls_stream):
    transport, protocol, _ = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=1 << 30)
    fill(transport)
    held = transport.get_write_buffer_size()
    # Records are somewhat larger than what is in them.
    transport.set_write_buffer_limits(high=held + 10_000, low=10)
    transport.write(bytes(1000))
    assert held + 1000 <= transport.get_write_buffer_size() < held + 2000
    assert "pause_writing" not in protocol.calls
    transport.write(bytes(10_000))
    assert protocol.calls.count("pause_writing") == 1
    transport.write(bytes(1000))
    assert protocol.calls.count("pause_writing") == 1
    assert "resume_writing" not in protocol.calls


async def test_resume_writing_is_called_once_when_the_buffer_is_low(loop, tls_stream):
    class Protocol(Recorder):
        def resume_writing(self):
            sizes.append(self.transport.get_write_buffer_size())
            super().resume_writing()

    sizes = []
    transport, protocol, peer = await tls_stream(Protocol(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=100_000, low=50_000)
    written = fill(transport)
    while "pause_writing" not in protocol.calls:
        transport.write(bytes(1000))
        written += bytes(1000)
    assert await peer.receive_exactly(len(written)) == written
    await polled(loop)
    assert protocol.calls.count("pause_writing") == protocol.calls.count("resume_writing") == 1
    assert len(sizes) == 1 and sizes[0] <= 50_000


async def test_a_limit_of_zero_pauses_on_anything_held_and_resumes_when_empty(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=0)
    written = fill(transport)
    assert protocol.calls[-1] == "pause_writing"
    assert await peer.receive_exactly(len(written)) == written
    await protocol.until(lambda: protocol.calls[-1] == "resume_writing")
    assert transport.get_write_buffer_size() == 0


async def test_writing_pauses_and_resumes_again_and_again(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=1000)
    for turn in range(1, 4):
        written = fill(transport)
        assert await peer.receive_exactly(len(written)) == written
        await protocol.until(lambda turn=turn: protocol.calls.count("resume_writing") == turn)
    assert [call for call in protocol.calls if call.endswith("writing")] == ["pause_writing", "resume_writing"] * 3


async def test_writing_does_not_pause_while_the_system_takes_everything(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.set_write_buffer_limits(high=1)
    for _ in range(20):
        transport.write(b"small")
        assert await peer.receive_exactly(5) == b"small"
    assert protocol.calls == ["connection_made"]


@pytest.mark.parametrize("high", [1000, 100_000])
async def test_joined_writes_do_not_pause_while_the_system_takes_everything(loop, tls_stream, high):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.set_write_buffer_limits(high=high)
    for _ in range(5):
        for _ in range(3):
            transport.write(bytes(600))
        await asyncio.sleep(0)
        assert await peer.receive_exactly(1800) == bytes(1800)
    assert protocol.calls == ["connection_made"]


async def test_writing_does_not_resume_after_the_end(loop, tls_stream):
    transport, protocol, _ = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=1000)
    fill(transport)
    transport.abort()
    await protocol.lost
    assert protocol.calls == ["connection_made", "pause_writing", "connection_lost"]


async def test_a_protocol_that_heeds_pause_writing_holds_little(loop, tls_stream):
    class Producer(Recorder):
        sent = 0
        may_write = True
        largest = 0

        def pause_writing(self):
            super().pause_writing()
            self.may_write = False

        def resume_writing(self):
            super().resume_writing()
            self.may_write = True
            self.produce()

        def produce(self):
            while self.may_write and self.sent < len(LARGE):
                self.transport.write(LARGE[self.sent : self.sent + 10_000])
                self.sent += 10_000
                self.largest = max(self.largest, self.transport.get_write_buffer_size())

    transport, protocol, peer = await tls_stream(Producer(), receive_buffer=SMALL_BUFFER)
    protocol.produce()
    assert not protocol.may_write and protocol.sent < len(LARGE)
    assert await peer.receive_exactly(len(LARGE)) == LARGE
    assert protocol.largest < 2 * 512 * 1024


async def test_reading_goes_on_while_writing_has_to_wait(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    await peer.send(LARGE[: 1 << 20])
    assert await protocol.received(1 << 20) == LARGE[: 1 << 20]
    assert await peer.receive_exactly(len(written)) == written


async def test_what_is_written_in_resume_writing_comes_last(loop, tls_stream):
    class Protocol(Recorder):
        def resume_writing(self):
            super().resume_writing()
            self.transport.write(b"the last words")

    transport, protocol, peer = await tls_stream(Protocol(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=1000)
    written = fill(transport)
    assert await peer.receive_exactly(len(written) + 14) == written + b"the last words"


async def test_what_is_written_in_pause_writing_comes_last(loop, tls_stream):
    class Protocol(Recorder):
        def pause_writing(self):
            super().pause_writing()
            self.transport.write(b"one more")

    transport, protocol, peer = await tls_stream(Protocol(), receive_buffer=SMALL_BUFFER)
    transport.set_write_buffer_limits(high=1000)
    written = bytearray()
    while "pause_writing" not in protocol.calls:
        transport.write(LARGE[: 1 << 16])
        written += LARGE[: 1 << 16]
    assert await peer.receive_exactly(len(written) + 8) == written + b"one more"


# --- reading --------------------------------------------------------------------------------------


async def test_pause_reading_holds_the_data_back(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.pause_reading()
    assert not transport.is_reading()
    await peer.send(b"held")
    await polled(loop)
    assert protocol.data == b""
    transport.resume_reading()
    assert transport.is_reading()
    assert await protocol.received(4) == b"held"


async def test_pause_reading_in_connection_made_holds_the_first_data_back(loop, tls_stream):
    class Protocol(Recorder):
        def connection_made(self, transport):
            if tls_stream.kind != "client":  # see test_tls_differences.py
                transport.pause_reading()
            super().connection_made(transport)

    transport, protocol, peer = await tls_stream(Protocol())
    transport.pause_reading()  # start_tls() gave another transport, which reads
    await peer.send(b"held")
    await polled(loop)
    assert protocol.data == b""
    transport.resume_reading()
    assert await protocol.received(4) == b"held"


async def test_pause_reading_in_buffer_updated_holds_the_rest_back(loop, tls_stream):
    """What is held is a part of a record that has been decrypted, and another record."""

    class Protocol(ViewRecorder):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.pause_reading()

    transport, protocol, peer = await tls_stream(Protocol(3))
    peer.ssl.write(b"onetwo")
    peer.ssl.write(b"three")
    await peer.flush()
    await protocol.received(3)
    await polled(loop)
    assert protocol.data == b"one"
    transport.resume_reading()
    await protocol.received(6)
    await polled(loop)
    assert protocol.data == b"onetwo"
    transport.resume_reading()
    await protocol.received(9)
    transport.resume_reading()
    assert await protocol.received(11) == b"onetwothree"


async def test_pause_reading_in_data_received_holds_what_comes_later_back(loop, tls_stream):
    class Protocol(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    transport, protocol, peer = await tls_stream(Protocol())
    await peer.send(b"one")
    await protocol.received(3)
    await peer.send(b"two")
    await polled(loop)
    assert protocol.data == b"one"
    assert protocol.calls.count("data_received") == 1
    transport.resume_reading()
    assert await protocol.received(6) == b"onetwo"


async def test_resuming_and_pausing_at_once_holds_the_data_back(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.pause_reading()
    await peer.send(b"held")
    await polled(loop)
    transport.resume_reading()
    transport.pause_reading()
    await polled(loop)
    assert protocol.data == b""
    transport.resume_reading()
    assert await protocol.received(4) == b"held"


async def test_resume_reading_delivers_later(loop, tls_stream):
    """Not inside the call: the caller need not be ready for it."""
    transport, protocol, peer = await tls_stream(Recorder())
    transport.pause_reading()
    await peer.send(b"held")
    await polled(loop)
    transport.resume_reading()
    assert protocol.data == b""
    assert await protocol.received(4) == b"held"


async def test_pausing_and_resuming_twice_is_harmless(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.resume_reading()
    transport.pause_reading()
    transport.pause_reading()
    transport.resume_reading()
    transport.resume_reading()
    await peer.send(b"x")
    assert await protocol.received(1) == b"x"


@pytest.mark.parametrize("protocol_class", [Recorder, ViewRecorder])
async def test_many_pauses_lose_nothing(loop, tls_stream, protocol_class):
    class Protocol(protocol_class):
        def note(self, call):
            super().note(call)
            if call in ("data_received", "buffer_updated"):
                self.transport.pause_reading()
                loop.call_soon(self.transport.resume_reading)

    _, protocol, peer = await tls_stream(Protocol())
    _, received = await asyncio.gather(peer.send(LARGE[: 1 << 20]), protocol.received(1 << 20))
    assert received == LARGE[: 1 << 20]


async def test_a_paused_transport_holds_the_peer_back(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.pause_reading()
    sending = loop.create_task(peer.send(LARGE))
    for _ in range(20):
        await polled(loop)
    assert not sending.done()
    assert protocol.data == b""
    transport.resume_reading()
    assert await protocol.received(len(LARGE)) == LARGE
    await sending


async def test_writing_goes_on_while_reading_is_paused(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.pause_reading()
    await peer.send(b"held")
    transport.write(LARGE)
    assert await peer.receive_exactly(len(LARGE)) == LARGE
    assert protocol.data == b""
    transport.resume_reading()
    assert await protocol.received(4) == b"held"


async def test_the_announced_end_is_not_seen_while_reading_is_paused(loop, tls_stream):
    transport, protocol, peer = await tls_stream(EofKeeper())
    transport.pause_reading()
    await peer.send(b"held")
    await peer.close_notify()
    await polled(loop)
    assert protocol.calls == ["connection_made"]
    transport.resume_reading()
    assert await protocol.lost is None
    assert protocol.data == b"held"
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_the_end_of_the_socket_is_not_seen_while_reading_is_paused(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.pause_reading()
    await peer.send(b"held")
    peer.sock.shutdown(socket.SHUT_WR)
    await polled(loop)
    assert protocol.calls == ["connection_made"]
    transport.resume_reading()
    assert await protocol.lost is None
    assert protocol.data == b"held"
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_a_transport_can_be_closed_while_reading_is_paused(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.pause_reading()
    transport.close()
    assert await peer.receive_all() == b""
    await peer.close_notify()
    assert await protocol.lost is None
    assert protocol.data == b""


@pytest.mark.parametrize("ends", ["closed", "aborted"])
async def test_a_transport_with_data_held_back_can_be_ended(loop, tls_stream, ends):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.pause_reading()
    await peer.send(b"held")
    await polled(loop)
    if ends == "closed":
        transport.close()
    else:
        transport.abort()
    peer.close()
    await protocol.lost
    assert protocol.calls.count("connection_lost") == 1
    assert protocol.data == b""


async def test_pause_reading_in_connection_made_holds_data_that_came_with_the_handshake(loop, certificates):
    """The peer's first data come in one packet with its last message of the handshake."""
    class Protocol(Recorder):
        def connection_made(self, transport):
            transport.pause_reading()
            super().connection_made(transport)

    protocol = Protocol()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=certificates.server_context())
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, server.sockets[0].getsockname())
    peer = TlsPeer(Wire(loop, sock), certificates.client_context(), server_hostname="localhost")
    while True:
        try:
            peer.ssl.do_handshake()
        except ssl.SSLWantReadError:
            await peer.flush()
            await peer.feed()
        else:
            break
    peer.ssl.write(b"held")
    await peer.flush()
    transport = await protocol.made
    await polled(loop)
    assert protocol.data == b""
    transport.resume_reading()
    assert await protocol.received(4) == b"held"
    peer.close()
    await protocol.lost
    server.close()


# --- read limits, which asyncio's TLS has beyond the documented methods ---------------------------


async def test_read_limits_can_be_set(loop, tls_stream):
    transport, _, _ = await tls_stream(Recorder())
    assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
    transport.set_read_buffer_limits(high=1000)
    assert transport.get_read_buffer_limits() == (250, 1000)
    transport.set_read_buffer_limits()
    assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
    with pytest.raises(ValueError, match=r"high \(1\) must be >= low \(2\) must be >= 0"):
        transport.set_read_buffer_limits(high=1, low=2)


async def test_the_read_buffer_is_empty_when_all_has_been_delivered(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    assert transport.get_read_buffer_size() == 0
    transport.pause_reading()
    await peer.send(b"held" * 100)
    await polled(loop)
    transport.resume_reading()
    await protocol.received(400)
    assert transport.get_read_buffer_size() == 0


async def test_a_read_limit_smaller_than_a_record_stops_nothing(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.set_read_buffer_limits(high=4096)
    peer.ssl.write(LARGE[:16000])
    record = peer.outgoing.read()
    await peer.wire.send(record[:8000])
    await polled(loop)
    assert transport.get_read_buffer_size() == 0
    await peer.wire.send(record[8000:])
    async with asyncio.timeout(5):
        assert await protocol.received(16000) == LARGE[:16000]
