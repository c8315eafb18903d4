"""TLS transports that are closed or aborted, and what is left of them."""

import asyncio
import gc
import logging
import socket
import ssl
import sys
import weakref

import pytest
from checker import LARGE, SMALL_BUFFER, EofKeeper, Recorder, fill, polled
from support import gone, warning_texts
from tls_checker import ViewRecorder, connect_tls, receive_all_there_is

# --- close ----------------------------------------------------------------------------------------


async def test_close_announces_the_end(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder())
    transport.close()
    assert await receive_all_there_is(peer) == (b"", True)


async def test_close_calls_connection_lost_later_and_once(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    assert transport.close() is None
    assert transport.is_closing()
    assert "connection_lost" not in protocol.calls
    await peer.unwrap()
    assert await protocol.lost is None
    await polled(loop)
    assert protocol.calls.count("connection_lost") == 1
    assert protocol.calls[-1] == "connection_lost"
    assert "data_received" not in protocol.calls


async def test_close_waits_until_the_peer_announces_its_end_too(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.close()
    assert await peer.receive_all() == b""
    await polled(loop)
    assert not protocol.lost.done()
    await peer.close_notify()
    assert await protocol.lost is None


async def test_close_ends_when_the_peer_leaves_without_a_word(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.close()
    assert await peer.receive_all() == b""
    peer.close()
    assert await protocol.lost is None


async def test_the_socket_is_closed_after_both_have_announced_the_end(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    sock = transport.get_extra_info("socket")
    transport.close()
    await peer.unwrap()
    await protocol.lost
    assert await peer.wire.receive() == b""
    await asyncio.sleep(0)
    assert sock.fileno() == -1


async def test_close_sends_what_is_held(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    transport.close()
    await polled(loop)
    assert not protocol.lost.done()
    assert await receive_all_there_is(peer) == (written, True)
    await peer.close_notify()
    assert await protocol.lost is None


async def test_close_right_after_much_was_written_sends_it(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.write(LARGE)
    transport.close()
    assert await receive_all_there_is(peer) == (LARGE, True)
    await peer.close_notify()
    assert await protocol.lost is None


async def test_close_right_after_a_write_sends_it(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    for piece in (b"several ", b"small ", b"writes"):
        transport.write(piece)
    transport.close()
    assert await receive_all_there_is(peer) == (b"several small writes", True)


@pytest.mark.parametrize("protocol_class", [Recorder, ViewRecorder])
async def test_close_in_the_middle_of_reading_ends_the_connection(loop, tls_stream, protocol_class):
    class Protocol(protocol_class):
        def note(self, call):
            super().note(call)
            if call in ("data_received", "buffer_updated"):
                self.transport.write(b"goodbye")
                self.transport.close()

    _, protocol, peer = await tls_stream(Protocol())
    await peer.send(b"hello")
    assert await receive_all_there_is(peer) == (b"goodbye", True)
    await peer.close_notify()
    assert await protocol.lost is None
    assert protocol.data == b"hello"


async def test_close_in_connection_made_ends_the_connection(loop, certificates):
    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"goodbye")
            transport.close()

    async with await asyncio.start_server(read_and_close, "127.0.0.1", 0, ssl=certificates.server_context()) as server:
        transport, protocol = await loop.create_connection(
            Protocol, *server.sockets[0].getsockname(), ssl=certificates.client_context(), server_hostname="localhost"
        )
        assert transport.is_closing()
        assert await protocol.lost is None
        assert protocol.calls[0] == "connection_made"
        assert protocol.calls.count("connection_lost") == 1


async def read_and_close(reader, writer):
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_data_of_a_peer_that_has_not_heard_of_the_end_is_not_received(loop, tls_stream):
    """It may be an error of the connection: the peer announced no end, and its data have been lost."""
    transport, protocol, peer = await tls_stream(Recorder())
    transport.close()
    await peer.send(b"too late")
    exc = await protocol.lost
    assert exc is None or isinstance(exc, ssl.SSLError) and exc.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
    assert protocol.data == b""
    assert protocol.calls.count("connection_lost") == 1


async def test_a_closed_transport_answers_harmlessly(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.close()
    await peer.unwrap()
    await protocol.lost
    assert transport.is_closing()
    assert transport.get_write_buffer_size() == 0
    transport.abort()
    transport.pause_reading()
    transport.resume_reading()
    transport.write(b"x")
    transport.writelines([b"x"])
    assert transport.get_extra_info("peername", "gone") in ("gone", peer.sock.getsockname())
    await polled(loop)
    assert protocol.calls.count("connection_lost") == 1


async def test_closing_twice_is_harmless(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.close()
    transport.close()
    await peer.unwrap()
    assert await protocol.lost is None
    transport.close()
    assert protocol.calls.count("connection_lost") == 1


async def test_the_shutdown_has_a_time_limit(loop, tls_stream):
    transport, protocol, _ = await tls_stream(Recorder(), ssl_shutdown_timeout=0.01)
    transport.close()
    exc = await protocol.lost
    assert type(exc) is TimeoutError
    assert str(exc) == "SSL shutdown timed out"
    assert protocol.calls.count("connection_lost") == 1


async def test_the_shutdown_has_a_time_limit_while_data_are_held(loop, tls_stream):
    transport, protocol, _ = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER, ssl_shutdown_timeout=0.01)
    fill(transport)
    transport.close()
    exc = await protocol.lost
    assert type(exc) is TimeoutError
    assert str(exc) == "SSL shutdown timed out"
    assert transport.get_write_buffer_size() == 0


async def test_the_time_limit_of_the_shutdown_begins_with_it(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder(), ssl_shutdown_timeout=0.01)
    await asyncio.sleep(0.02)
    assert not protocol.lost.done()
    await peer.send(b"alive")
    assert await protocol.received(5) == b"alive"


# --- after the end --------------------------------------------------------------------------------


async def test_writing_after_close_is_ignored(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.write(b"before")
    transport.close()
    transport.write(b"after")
    transport.writelines([b"after"])
    assert await receive_all_there_is(peer) == (b"before", True)
    await peer.close_notify()
    await protocol.lost
    transport.write(b"long after")


async def test_writing_again_and_again_to_a_lost_connection_is_logged(loop, tls_stream, caplog):
    transport, protocol, _ = await tls_stream(Recorder())
    transport.abort()
    await protocol.lost
    for _ in range(3):
        transport.write(b"x")
    assert caplog.records == []
    for _ in range(5):
        transport.write(b"x")
    assert {record.getMessage() for record in caplog.records} == {"SSL connection is closed"}
    assert {(record.name, record.levelno) for record in caplog.records} == {("asyncio", logging.WARNING)}


async def test_text_cannot_be_written_after_the_end_either(loop, tls_stream):
    transport, protocol, _ = await tls_stream(Recorder())
    transport.abort()
    await protocol.lost
    with pytest.raises(TypeError, match="^data: expecting a bytes-like instance, got str$"):
        transport.write("text")


# --- half close, which there is not ---------------------------------------------------------------


async def test_a_tls_stream_cannot_be_half_closed(loop, tls_stream):
    transport, _, peer = await tls_stream(Recorder())
    assert transport.can_write_eof() is False
    with pytest.raises(NotImplementedError):
        transport.write_eof()
    transport.write(b"still open")
    assert await peer.receive_exactly(10) == b"still open"


async def test_eof_received_cannot_keep_the_transport_open(loop, tls_stream, caplog):
    transport, protocol, peer = await tls_stream(EofKeeper())
    await peer.close_notify()
    assert await protocol.lost is None
    assert transport.is_closing()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == "returning true from eof_received() has no effect when using ssl"
    assert record.name == "asyncio"


# --- abort ----------------------------------------------------------------------------------------


async def test_abort_announces_nothing(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.abort()
    assert transport.is_closing()
    assert not protocol.lost.done()
    assert await protocol.lost is None
    assert await receive_all_there_is(peer) == (b"", False)
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_abort_drops_what_is_held(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    transport.abort()
    assert await protocol.lost is None
    received, announced = await receive_all_there_is(peer)
    assert len(received) < len(written)
    assert not announced
    assert transport.get_write_buffer_size() == 0


async def test_abort_ends_a_close_that_waits_for_the_peer(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder())
    transport.close()
    assert await peer.receive_all() == b""
    transport.abort()
    assert await protocol.lost is None
    assert protocol.calls.count("connection_lost") == 1


async def test_abort_ends_a_close_that_still_sends(loop, tls_stream):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER)
    written = fill(transport)
    transport.close()
    transport.abort()
    assert await protocol.lost is None
    received, announced = await receive_all_there_is(peer)
    assert len(received) < len(written)
    assert not announced
    assert protocol.calls.count("connection_lost") == 1


async def test_abort_twice_calls_connection_lost_once(loop, tls_stream):
    transport, protocol, _ = await tls_stream(Recorder())
    transport.abort()
    transport.abort()
    await protocol.lost
    transport.abort()
    await polled(loop)
    assert protocol.calls == ["connection_made", "connection_lost"]


@pytest.mark.parametrize("protocol_class", [Recorder, ViewRecorder])
async def test_abort_in_the_middle_of_reading_ends_the_connection(loop, tls_stream, protocol_class):
    class Protocol(protocol_class):
        def note(self, call):
            super().note(call)
            if call in ("data_received", "buffer_updated"):
                self.transport.abort()

    _, protocol, peer = await tls_stream(Protocol())
    peer.ssl.write(b"one")
    peer.ssl.write(b"two")
    await peer.flush()
    assert await protocol.lost is None
    assert protocol.data.startswith(b"one")
    assert protocol.calls.count("connection_lost") == 1


async def test_abort_in_eof_received_ends_the_connection(loop, tls_stream):
    class Protocol(Recorder):
        def eof_received(self):
            super().eof_received()
            self.transport.abort()

    _, protocol, peer = await tls_stream(Protocol())
    await peer.close_notify()
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


async def test_close_in_eof_received_ends_the_connection(loop, tls_stream):
    class Protocol(Recorder):
        def eof_received(self):
            super().eof_received()
            self.transport.close()

    _, protocol, peer = await tls_stream(Protocol())
    await peer.unwrap()
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_ending_in_pause_writing_ends_the_connection(loop, tls_stream, ending):
    class Protocol(Recorder):
        def pause_writing(self):
            super().pause_writing()
            getattr(self.transport, ending)()

    transport, protocol, peer = await tls_stream(Protocol(), receive_buffer=SMALL_BUFFER)
    written = fill_until_paused(transport, protocol)
    if ending == "close":
        assert await receive_all_there_is(peer) == (written, True)
        await peer.close_notify()
    assert await protocol.lost is None
    assert protocol.calls.count("connection_lost") == 1


def fill_until_paused(transport, protocol):
    written = bytearray()
    while "pause_writing" not in protocol.calls:
        transport.write(LARGE[:65536])
        written += LARGE[:65536]
    return bytes(written)


ENDS_TWICE = pytest.mark.differs("asyncio ends the connection twice", when=sys.version_info < (3, 14))


@pytest.mark.parametrize("ending", ["close", pytest.param("abort", marks=ENDS_TWICE)])
async def test_ending_in_resume_writing_ends_the_connection_once(loop, tls_stream, reports, ending):
    class Protocol(Recorder):
        def resume_writing(self):
            super().resume_writing()
            getattr(self.transport, ending)()

    transport, protocol, peer = await tls_stream(Protocol(), receive_buffer=SMALL_BUFFER)
    fill_until_paused(transport, protocol)
    await receive_all_there_is(peer)
    peer.close()
    assert await protocol.lost is None
    await polled(loop)
    assert protocol.calls.count("connection_lost") == 1
    reported = list(reports)
    reports.clear()
    assert not reported


# --- what is left ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["close", "abort", "announced", "not announced", "garbage", "time limit"])
async def test_a_connection_that_has_ended_is_freed(loop, tls_stream, ending):
    transport, protocol, peer = await tls_stream(Recorder(), ssl_shutdown_timeout=0.01 if ending[0] == "t" else None)
    match ending:
        case "close":
            transport.close()
            await peer.unwrap()
        case "abort":
            transport.abort()
        case "announced":
            await peer.unwrap()
        case "not announced":
            peer.sock.shutdown(socket.SHUT_WR)
        case "garbage":
            await peer.wire.send(b"garbage" * 10)
        case "time limit":
            transport.close()
    await protocol.lost
    peer.close()
    await polled(loop)
    watched = weakref.ref(transport), weakref.ref(protocol), weakref.ref(transport.get_extra_info("ssl_object"))
    tls_stream.forget_all()
    del transport, protocol, peer
    assert gone(*watched)


def test_an_open_connection_of_a_closed_loop_is_freed_with_a_warning(new_loop, certificates):
    async def connect(loop):
        return await connect_tls(loop, "client", Recorder(), certificates)

    loop = new_loop()
    transport, protocol, peer = loop.run_until_complete(connect(loop))
    sock = transport.get_extra_info("socket")
    loop.close()
    watched = weakref.ref(transport), weakref.ref(protocol)
    with warning_texts() as texts:
        del transport, protocol, loop
        gc.collect()
        assert gone(*watched)
    assert any("unclosed transport" in text for text in texts)
    assert sock.fileno() == -1
    peer.close()
