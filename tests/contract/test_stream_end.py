"""Stream transports: half closed, closed, aborted, or left by the peer."""

import asyncio
import logging
import socket
import sys

import pytest
from checker import SMALL_BUFFER, EofKeeper, Recorder, fill, polled, receive_all

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
