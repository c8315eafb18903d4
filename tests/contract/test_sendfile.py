"""`loop.sendfile` over transports and `loop.sock_sendfile`: what arrives, what is refused, and how it ends."""

import asyncio
import functools
import io
import os
import socket
import sys

import pytest
from checker import STREAM_KINDS, Recorder, connect_stream, fill, polled, receive_all, receive_exactly

CONTENT = bytes(range(250)) * 4000
SIZE = len(CONTENT)
SMALL_BUFFER = 16384


class TransportWay:
    """One way to send a file, with the socket where it arrives."""

    def __init__(self, loop, transport, protocol, peer):
        self.transport = transport
        self.protocol = protocol
        self.peer = peer
        self.sendfile = functools.partial(loop.sendfile, transport)

    async def write(self, data):
        self.transport.write(data)


class SockWay:
    """The other way, with the same attributes."""

    def __init__(self, loop, sock, peer):
        self.peer = peer
        self.sendfile = functools.partial(loop.sock_sendfile, sock)
        self.write = functools.partial(loop.sock_sendall, sock)


async def connected_way(loop, kind):
    transport, protocol, peer = await connect_stream(loop, kind, Recorder(), receive_buffer=SMALL_BUFFER)
    # What asyncio reads goes into a buffer of its own, which it fills again when it may go on: when all is sent.
    transport.set_write_buffer_limits(high=0)
    # So that a file does not fit into the kernel.
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
    return TransportWay(loop, transport, protocol, peer)


@pytest.fixture(params=STREAM_KINDS)
def stream_way(request, loop):
    way = loop.run_until_complete(connected_way(loop, request.param))
    yield way
    way.peer.close()
    if not way.protocol.lost.done():
        way.transport.abort()
        loop.run_until_complete(way.protocol.lost)


@pytest.fixture(params=["transport", "sock"])
def way(request, loop, tcp_pair):
    if request.param == "sock":
        yield SockWay(loop, *tcp_pair)
        return
    way = loop.run_until_complete(connected_way(loop, "tcp"))
    yield way
    way.peer.close()
    way.transport.abort()
    loop.run_until_complete(way.protocol.lost)


@pytest.fixture(params=["regular", "in memory"])
def file(request, tmp_path):
    """A file that the system can send, and one that asyncio has to read."""
    if request.param == "in memory":
        yield io.BytesIO(CONTENT)
        return
    (tmp_path / "file").write_bytes(CONTENT)
    with open(tmp_path / "file", "rb") as file:
        yield file


@pytest.fixture
def regular(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    with open(tmp_path / "file", "rb") as file:
        yield file


async def started(loop, way, file):
    """A task that is in the middle of sending the file."""
    sending = loop.create_task(way.sendfile(file))
    assert await receive_exactly(loop, way.peer, 1000) == CONTENT[:1000]
    return sending


# --- what is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offset, count",
    [(0, None), (0, 1), (0, SIZE), (0, SIZE + 1), (90_000, None), (90_000, 200_000), (SIZE - 5, 10), (SIZE - 5, None)],
)
async def test_a_part_of_a_file_is_sent_and_counted(loop, way, file, offset, count):
    expected = CONTENT[offset:] if count is None else CONTENT[offset : offset + count]
    sending = loop.create_task(way.sendfile(file, offset, count))
    assert await receive_exactly(loop, way.peer, len(expected)) == expected
    assert await sending == len(expected)
    assert file.tell() == offset + len(expected)
    await way.write(b"later")
    assert await receive_exactly(loop, way.peer, 5) == b"later"


@pytest.mark.parametrize("offset, count", [(SIZE, None), (SIZE, 1), (SIZE + 100, None), (SIZE + 100, 1)])
async def test_behind_the_end_of_a_file_there_is_nothing_to_send(loop, way, file, offset, count):
    assert await way.sendfile(file, offset, count) == 0
    await way.write(b"later")
    assert await receive_exactly(loop, way.peer, 5) == b"later"


async def test_an_empty_file_is_sent(loop, way, tmp_path):
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as empty:
        assert await way.sendfile(empty) == 0
    await way.write(b"later")
    assert await receive_exactly(loop, way.peer, 5) == b"later"


async def test_a_file_comes_after_what_was_written_before_and_before_what_is_written_later(loop, stream_way, file):
    written = fill(stream_way.transport)
    sending = loop.create_task(stream_way.sendfile(file))
    assert await receive_exactly(loop, stream_way.peer, len(written) + SIZE) == written + CONTENT
    assert await sending == SIZE
    await stream_way.write(b"later")
    stream_way.transport.close()
    assert await receive_all(loop, stream_way.peer) == b"later"


@pytest.mark.differs("asyncio may fill its buffer again too soon", when=sys.version_info >= (3, 12), run=False)
async def test_what_was_read_of_a_file_is_sent_as_it_was(loop, stream_way):
    stream_way.transport.set_write_buffer_limits()
    written = fill(stream_way.transport)
    sending = loop.create_task(stream_way.sendfile(io.BytesIO(CONTENT)))
    assert await receive_exactly(loop, stream_way.peer, len(written) + SIZE) == written + CONTENT
    assert await sending == SIZE


async def test_two_files_are_sent_one_after_the_other(loop, stream_way, file):
    async def send():
        return [await stream_way.sendfile(file, 0, 300_000), await stream_way.sendfile(file, 300_000)]

    sending = loop.create_task(send())
    assert await receive_exactly(loop, stream_way.peer, SIZE) == CONTENT
    assert await sending == [300_000, SIZE - 300_000]


async def test_a_file_that_can_only_be_read_is_sent_from_where_it_is(loop, way):
    class Readable:
        readinto = io.BytesIO(CONTENT[:100_000]).readinto

    sending = loop.create_task(way.sendfile(Readable(), 0, 90_000))
    assert await receive_exactly(loop, way.peer, 90_000) == CONTENT[:90_000]
    assert await sending == 90_000


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offset, count, error",
    [
        (0, 0, ValueError),
        (0, -1, ValueError),
        (0, "1", TypeError),
        (0, 1.0, TypeError),
        (-1, None, ValueError),
        (-1, 1, ValueError),
        (None, None, TypeError),
        (0.0, None, TypeError),
    ],
)
async def test_an_impossible_part_is_refused_and_the_connection_stays(loop, way, regular, offset, count, error):
    with pytest.raises(error, match="must be a (positive|non-negative) integer"):
        await way.sendfile(regular, offset, count)
    await way.write(b"later")
    assert await receive_exactly(loop, way.peer, 5) == b"later"


async def test_a_text_file_is_refused(loop, way, tmp_path):
    (tmp_path / "text").write_text("text")
    with open(tmp_path / "text") as text, pytest.raises(ValueError, match="binary mode"):
        await way.sendfile(text)
    await way.write(b"later")
    assert await receive_exactly(loop, way.peer, 5) == b"later"


async def test_a_file_in_memory_is_refused_without_fallback(loop, way):
    file = io.BytesIO(CONTENT)
    with pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular file"):
        await way.sendfile(file, fallback=False)
    assert file.tell() == 0
    await way.write(b"later")
    assert await receive_exactly(loop, way.peer, 5) == b"later"


async def test_a_part_of_a_pipe_is_refused(loop, way):
    read, write = os.pipe()
    with open(read, "rb", 0) as pipe:
        os.close(write)
        with pytest.raises(OSError, match="Illegal seek"):
            await way.sendfile(pipe, 1, 5)
    await way.write(b"later")
    assert await receive_exactly(loop, way.peer, 5) == b"later"


async def test_a_datagram_socket_is_refused(loop, regular):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with pytest.raises(ValueError, match="only SOCK_STREAM"):
            await loop.sock_sendfile(sock, regular)


async def test_a_pipe_transport_is_refused(loop, regular):
    read, write = os.pipe()
    transport, protocol = await loop.connect_write_pipe(Recorder, open(write, "wb", 0))
    with pytest.raises(RuntimeError, match="sendfile is not supported for transport"):
        await loop.sendfile(transport, regular)
    transport.close()
    os.close(read)
    await protocol.lost


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_transport_that_is_closing_is_refused(stream_way, file, end):
    getattr(stream_way.transport, end)()
    with pytest.raises(RuntimeError, match="Transport is closing"):
        await stream_way.sendfile(file)


# --- meanwhile ------------------------------------------------------------------------------------


async def test_writing_is_refused_while_a_file_is_sent(loop, stream_way, regular):
    sending = await started(loop, stream_way, regular)
    with pytest.raises(RuntimeError, match="sendfile is in progress"):
        stream_way.transport.write(b"x")
    with pytest.raises(RuntimeError, match="sendfile is in progress"):
        stream_way.transport.writelines([b"x"])
    assert await receive_exactly(loop, stream_way.peer, SIZE - 1000) == CONTENT[1000:]
    assert await sending == SIZE


async def test_a_second_file_is_refused_while_one_is_sent(loop, stream_way, regular):
    sending = await started(loop, stream_way, regular)
    # asyncio's KeyError is an accident.
    with pytest.raises((RuntimeError, KeyError)):
        await stream_way.sendfile(regular)
    assert await receive_exactly(loop, stream_way.peer, SIZE - 1000) == CONTENT[1000:]
    assert await sending == SIZE


async def test_input_waits_until_a_file_is_sent(loop, stream_way, file):
    sending = await started(loop, stream_way, file)
    await loop.sock_sendall(stream_way.peer, b"input")
    await polled(loop)
    assert not stream_way.transport.is_reading()
    assert stream_way.protocol.data == b""
    await receive_exactly(loop, stream_way.peer, SIZE - 1000)
    await sending
    assert stream_way.transport.is_reading()
    assert await stream_way.protocol.received(5) == b"input"


async def test_a_transport_that_was_paused_is_paused_afterwards(loop, stream_way, file):
    stream_way.transport.pause_reading()
    sending = await started(loop, stream_way, file)
    await loop.sock_sendall(stream_way.peer, b"input")
    await receive_exactly(loop, stream_way.peer, SIZE - 1000)
    await sending
    await polled(loop)
    assert not stream_way.transport.is_reading()
    assert stream_way.protocol.data == b""
    stream_way.transport.resume_reading()
    assert await stream_way.protocol.received(5) == b"input"


async def test_the_protocol_is_the_same_afterwards_and_resumed_as_often_as_it_was_paused(loop, stream_way, file):
    written = fill(stream_way.transport)
    sending = loop.create_task(stream_way.sendfile(file))
    await receive_exactly(loop, stream_way.peer, len(written) + SIZE)
    assert await sending == SIZE
    assert stream_way.transport.get_protocol() is stream_way.protocol
    assert stream_way.protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


# --- the end in the middle ------------------------------------------------------------------------


async def test_a_file_given_up_in_the_middle_leaves_the_connection_usable(loop, way, file):
    sending = await started(loop, way, file)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    writing = loop.create_task(way.write(b"later"))
    received = bytearray(CONTENT[:1000])
    while not received.endswith(b"later"):
        received += await loop.sock_recv(way.peer, 1 << 20)
    await writing
    assert 1000 < len(received) < SIZE
    assert CONTENT.startswith(received[:-5])


async def test_a_transport_reads_on_after_a_file_was_given_up(loop, stream_way, file):
    sending = await started(loop, stream_way, file)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert stream_way.transport.get_protocol() is stream_way.protocol
    await loop.sock_sendall(stream_way.peer, b"input")
    assert await stream_way.protocol.received(5) == b"input"


@pytest.mark.differs("asyncio may leave the file where it was", run=False)
async def test_a_file_given_up_in_the_middle_is_where_the_transport_stopped(loop, stream_way, regular):
    sending = await started(loop, stream_way, regular)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    stream_way.transport.close()
    assert regular.tell() == 1000 + len(await receive_all(loop, stream_way.peer))


@pytest.mark.differs("asyncio's transport refuses writes and reads no more")
async def test_a_file_given_up_while_it_waits_leaves_the_transport_as_it_was(loop, stream_way, regular):
    written = fill(stream_way.transport)
    sending = loop.create_task(stream_way.sendfile(regular))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await stream_way.write(b"later")
    assert stream_way.transport.is_reading()
    assert await receive_exactly(loop, stream_way.peer, len(written) + 5) == written + b"later"
    await loop.sock_sendall(stream_way.peer, b"input")
    assert await stream_way.protocol.received(5) == b"input"


@pytest.mark.differs("asyncio waits for ever", run=False)
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_transport_that_is_closed_in_the_middle_ends_the_sending(loop, stream_way, regular, end):
    descriptor = stream_way.transport.get_extra_info("socket").fileno()
    sending = await started(loop, stream_way, regular)
    getattr(stream_way.transport, end)()
    with pytest.raises(ConnectionError):
        await sending
    assert not loop.remove_writer(descriptor), "still watched"
    assert await stream_way.protocol.lost is None
    assert regular.tell() == 1000 + len(await receive_all(loop, stream_way.peer))


@pytest.mark.parametrize(
    "end",
    [pytest.param("close", marks=pytest.mark.differs("asyncio may write on, to the socket that it closed")), "abort"],
)
async def test_a_transport_that_is_closed_in_the_middle_ends_the_reading_of_a_file(loop, stream_way, end):
    sending = await started(loop, stream_way, io.BytesIO(CONTENT))
    getattr(stream_way.transport, end)()
    receiving = loop.create_task(receive_all(loop, stream_way.peer))
    with pytest.raises(ConnectionError):
        await sending
    assert await stream_way.protocol.lost is None
    assert CONTENT[1000:].startswith(await receiving)


async def test_a_transport_that_is_aborted_before_a_file_begins_ends_the_sending(loop, stream_way, regular):
    fill(stream_way.transport)
    sending = loop.create_task(stream_way.sendfile(regular))
    await asyncio.sleep(0)
    stream_way.transport.abort()
    with pytest.raises(ConnectionError):
        await sending
    assert await stream_way.protocol.lost is None


@pytest.mark.differs("asyncio reports an error of its own and ends the connection with it", run=False)
async def test_a_transport_that_is_closed_before_a_file_begins_sends_what_was_written(loop, stream_way, regular):
    written = fill(stream_way.transport)
    sending = loop.create_task(stream_way.sendfile(regular))
    await asyncio.sleep(0)
    stream_way.transport.close()
    assert await receive_all(loop, stream_way.peer) == written
    with pytest.raises(ConnectionError):
        await sending
    assert await stream_way.protocol.lost is None


async def test_a_peer_that_leaves_in_the_middle_ends_the_sending(loop, way, file):
    sending = await started(loop, way, file)
    way.peer.close()
    with pytest.raises(ConnectionError):
        await sending


async def test_a_peer_that_leaves_in_the_middle_ends_the_connection(loop, stream_way, file):
    sending = await started(loop, stream_way, file)
    stream_way.peer.close()
    with pytest.raises(ConnectionError):
        await sending
    await stream_way.protocol.lost
    assert stream_way.protocol.calls.count("connection_lost") == 1


async def test_the_end_of_writing_ends_the_sending(loop, stream_way, regular):
    sending = await started(loop, stream_way, regular)
    stream_way.transport.write_eof()
    receiving = loop.create_task(receive_all(loop, stream_way.peer))
    with pytest.raises(BrokenPipeError):
        await sending
    assert CONTENT[1000:].startswith(await receiving)
