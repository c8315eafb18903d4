"""TLS transports whose peer ends the connection, or its own direction, with or without saying so."""

import asyncio
import socket
import ssl

import pytest
from checker import LARGE, SMALL_BUFFER, Recorder, fill, polled
from tls_checker import ViewRecorder, receive_all_there_is

LINGER_NOT = b"\1\0\0\0\0\0\0\0"  # close() resets the connection


# --- the peer ends the connection -----------------------------------------------------------------


async def test_the_announced_end_of_the_peer_closes_the_transport(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    await peer.send(b"the last words")
    await peer.close_notify()
    assert await protocol.lost is None
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
    assert protocol.calls.count("eof_received") == 1
    assert protocol.data == b"the last words"
    assert transport.is_closing()


async def test_the_announced_end_is_answered(loop, tls_stream):
    _, protocol, peer = await tls_stream(Recorder())
    await peer.unwrap()  # raises unless it is
    assert await peer.wire.receive() == b""
    assert await protocol.lost is None


async def test_the_announced_end_in_one_packet_with_the_data_loses_nothing(loop, tls_stream):
    _, protocol, peer = await tls_stream(Recorder())
    for piece in (b"the ", b"last ", b"words"):
        peer.ssl.write(piece)
    await peer.close_notify()
    assert await protocol.lost is None
    assert protocol.data == b"the last words"
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_the_announced_end_loses_nothing_of_a_buffered_protocol(loop, tls_stream):
    _, protocol, peer = await tls_stream(ViewRecorder(3))
    for piece in (b"the ", b"last ", b"words"):
        peer.ssl.write(piece)
    await peer.close_notify()
    assert await protocol.lost is None
    assert protocol.data == b"the last words"
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_what_is_written_in_eof_received_is_sent(loop, tls_stream):
    class Protocol(Recorder):
        def eof_received(self):
            super().eof_received()
            self.transport.write(b"goodbye")

    _, protocol, peer = await tls_stream(Protocol())
    await peer.close_notify()
    assert await receive_all_there_is(peer) == (b"goodbye", True)
    assert await protocol.lost is None


async def test_the_announced_end_does_not_lose_what_is_held(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    await peer.close_notify()
    await protocol.called("eof_received")
    assert await receive_all_there_is(peer) == (written, True)
    assert await protocol.lost is None


async def test_an_end_that_is_not_announced_is_an_end_all_the_same(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    await peer.send(b"the last words")
    peer.sock.shutdown(socket.SHUT_WR)
    assert await protocol.lost is None
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
    assert protocol.data == b"the last words"
    assert transport.is_closing()


async def test_an_end_in_the_middle_of_a_record_is_an_end_all_the_same(loop, tls_stream):
    _, protocol, peer = await tls_stream(Recorder())
    await peer.send(b"the last words")
    peer.ssl.write(b"cut off")
    await peer.wire.send(peer.outgoing.read()[:-1])
    peer.sock.shutdown(socket.SHUT_WR)
    assert await protocol.lost is None
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
    assert protocol.data == b"the last words"


async def test_data_after_the_announced_end_are_ignored(loop, tls_stream):
    _, protocol, peer = await tls_stream(Recorder())
    peer.ssl.write(b"the last words")
    with pytest.raises(ssl.SSLWantReadError):
        peer.ssl.unwrap()
    await peer.wire.send(peer.outgoing.read() + b"\x17\x03\x03\x00\x05extra")
    await protocol.lost
    assert protocol.data == b"the last words"
    assert protocol.calls.count("eof_received") == 1


async def test_garbage_is_an_error_of_the_connection(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    await peer.send(b"the last words")
    await protocol.received(14)
    await peer.wire.send(b"GET / HTTP/1.1\r\n\r\n" * 10)
    assert isinstance(await protocol.lost, ssl.SSLError)
    assert "eof_received" not in protocol.calls
    assert protocol.data == b"the last words"
    assert transport.is_closing()


async def test_a_record_that_was_changed_is_an_error_of_the_connection(loop, tls_stream):
    _, protocol, peer = await tls_stream(Recorder())
    peer.ssl.write(b"secret")
    record = bytearray(peer.outgoing.read())
    record[-1] ^= 1
    await peer.wire.send(record)
    assert isinstance(await protocol.lost, ssl.SSLError)
    assert protocol.data == b""


@pytest.mark.parametrize("protocol_class", [Recorder, ViewRecorder])
async def test_a_changed_record_is_what_went_wrong_even_for_a_protocol_that_closes(loop, tls_stream, protocol_class):
    """And not that the connection cannot be shut down in order any more."""

    class Protocol(protocol_class):
        def note(self, call):
            super().note(call)
            if call in ("data_received", "buffer_updated"):
                self.transport.close()

    _, protocol, peer = await tls_stream(Protocol())
    peer.ssl.write(b"good")
    good = peer.outgoing.read()
    peer.ssl.write(b"changed")
    record = bytearray(peer.outgoing.read())
    record[-1] ^= 1
    await peer.wire.send(good + record)
    await polled(loop)
    peer.close()
    exc = await protocol.lost
    reasons = ("RECORD_LAYER_FAILURE", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC")
    assert exc is None or isinstance(exc, ConnectionResetError) or exc.reason in reasons
    assert protocol.calls.count("connection_lost") == 1


async def test_a_reset_by_the_peer_is_an_error_of_the_connection(loop, tls_stream):
    if tls_stream.kind == "unix":
        pytest.skip("there is no reset")
    transport, protocol, peer = await tls_stream(Recorder())
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    peer.close()
    assert isinstance(await protocol.lost, ConnectionResetError)
    assert "eof_received" not in protocol.calls
    assert transport.is_closing()


async def test_a_peer_that_is_gone_ends_a_transport_that_waits_to_write(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    fill(transport)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    peer.close()
    exc = await protocol.lost
    # Which comes first, its end or the failing write, is the system's affair.
    assert exc is None or isinstance(exc, BrokenPipeError | ConnectionResetError)
    assert transport.get_write_buffer_size() == 0
    assert protocol.calls.count("connection_lost") == 1


async def test_both_may_end_at_once(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    await peer.close_notify()
    transport.close()
    assert await receive_all_there_is(peer) == (b"", True)
    assert await protocol.lost is None
    assert protocol.calls.count("connection_lost") == 1


# --- the peer ends its direction and reads on -----------------------------------------------------


async def end_direction(peer, ends):
    if "announced" in ends:
        await peer.close_notify()
    if "socket" in ends:
        peer.sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("ends", ["announced", "socket", "announced, socket"])
async def test_what_was_written_before_close_arrives_though_the_peer_ends_its_direction(loop, tls_stream, ends):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.write(LARGE)
    transport.close()
    await end_direction(peer, ends)
    await polled(loop)
    assert await peer.receive_exactly(len(LARGE)) == LARGE
    await receive_all_there_is(peer)
    if ends == "announced":
        peer.sock.shutdown(socket.SHUT_WR)
    assert await protocol.lost is None
    assert protocol.calls.count("eof_received") == 1
    assert protocol.calls[-1] == "connection_lost"


@pytest.mark.parametrize("ends", ["announced", "socket", "announced, socket"])
async def test_what_was_written_arrives_though_the_peer_ends_its_direction(loop, tls_stream, ends):
    """As a client does that has nothing more to ask for."""
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.write(LARGE)
    await end_direction(peer, ends)
    await polled(loop)
    assert await peer.receive_exactly(len(LARGE)) == LARGE
    await receive_all_there_is(peer)
    assert await protocol.lost is None
    assert protocol.calls.count("eof_received") == 1
    assert protocol.calls[-1] == "connection_lost"


async def test_the_end_waits_for_a_paused_reader_though_the_peer_reads_on(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    transport.pause_reading()
    transport.write(LARGE)
    await peer.send(b"held")
    peer.sock.shutdown(socket.SHUT_WR)
    await polled(loop)
    assert await peer.receive_exactly(len(LARGE)) == LARGE
    await polled(loop)
    assert "eof_received" not in protocol.calls
    transport.resume_reading()
    assert await protocol.lost is None
    assert protocol.data == b"held"
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_much_data_for_a_peer_that_is_gone_is_not_worth_many_words(loop, tls_stream, caplog):
    transport, protocol, peer = await tls_stream(Recorder())
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    peer.close()
    transport.write(LARGE)
    await protocol.lost
    assert caplog.messages == []


async def test_a_record_that_is_too_long_is_refused_at_its_header(loop, tls_stream):
    _, protocol, peer = await tls_stream(Recorder())
    await peer.wire.send(b"\x17\x03\x03\x47\xff")
    await asyncio.wait([protocol.lost], timeout=5)
    assert protocol.lost.done()
    assert isinstance(protocol.exception, ssl.SSLError)
