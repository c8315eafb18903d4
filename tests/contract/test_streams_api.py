"""asyncio's own streams on the loop: open_connection, start_server and their Unix twins."""

import asyncio
import contextlib
import hashlib

import pytest
from checker import polled


@pytest.fixture(params=["tcp", "unix"])
def serve(request, loop, tmp_path, monkeypatch):
    """Starts a server for a handler and returns a function that opens (reader, writer) pairs to it."""
    monkeypatch.chdir(tmp_path)
    opened = []

    async def start(handler, **options):
        if request.param == "tcp":
            server = await asyncio.start_server(handler, "127.0.0.1", 0, **options)
            address = server.sockets[0].getsockname()
        else:
            server = await asyncio.start_unix_server(handler, "socket", **options)
        opened.append(server)

        async def connect(**options):
            if request.param == "tcp":
                reader, writer = await asyncio.open_connection(*address, **options)
            else:
                reader, writer = await asyncio.open_unix_connection("socket", **options)
            opened.append(writer)
            return reader, writer

        return connect

    yield start

    async def close_all():
        for each in reversed(opened):
            each.close()
            with contextlib.suppress(ConnectionError):  # a writer tells here, too, that its peer has gone
                await each.wait_closed()

    loop.run_until_complete(close_all())


def answering(*pieces):
    """A handler that writes these pieces, each in a turn of its own, and closes."""

    async def handler(reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    return handler


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_lines_are_read_one_by_one(serve, loop):
    connect = await serve(answering(b"one\ntw", b"o\n", b"rest"))
    reader, _ = await connect()
    assert await reader.readline() == b"one\n"
    assert await reader.readline() == b"two\n"
    assert await reader.readline() == b"rest"
    assert await reader.readline() == b""
    assert reader.at_eof()


async def test_a_reader_is_iterated_by_lines(serve, loop):
    connect = await serve(answering(b"one\ntw", b"o\nrest"))
    reader, _ = await connect()
    assert [line async for line in reader] == [b"one\n", b"two\n", b"rest"]


async def test_readuntil_reads_up_to_the_separator(serve, loop):
    connect = await serve(answering(b"head\r", b"\n\r\nbody"))
    reader, _ = await connect()
    assert await reader.readuntil(b"\r\n\r\n") == b"head\r\n\r\n"
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        await reader.readuntil(b"\r\n\r\n")
    assert caught.value.partial == b"body"


async def test_readexactly_reads_as_much_as_asked_for(serve, loop):
    connect = await serve(answering(b"01234", b"56789"))
    reader, _ = await connect()
    assert await reader.readexactly(7) == b"0123456"
    assert await reader.readexactly(0) == b""
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        await reader.readexactly(5)
    assert caught.value.partial == b"789"


async def test_read_reads_everything(serve, loop):
    connect = await serve(answering(b"every", b"thing"))
    reader, _ = await connect()
    assert await reader.read() == b"everything"


async def test_read_returns_what_is_there(serve, loop):
    connect = await serve(echo)
    reader, writer = await connect()
    writer.write(b"some")
    assert await reader.read(100) == b"some"
    writer.write(b"more")
    assert await reader.read(2) == b"mo"
    assert await reader.read(2) == b"re"


async def test_a_line_longer_than_the_limit_is_an_error(serve, loop):
    connect = await serve(answering(b"x" * 1000 + b"\n"))
    reader, _ = await connect(limit=100)
    with pytest.raises(ValueError, match="Separator is .*found.*limit"):
        await reader.readline()


async def test_readuntil_past_the_limit_is_an_error(serve, loop):
    connect = await serve(answering(b"x" * 1000 + b"\n"))
    reader, _ = await connect(limit=100)
    with pytest.raises(asyncio.LimitOverrunError):
        await reader.readuntil(b"\n")


async def test_the_limit_holds_the_peer_back(serve, loop):
    """A reader that nobody reads from pauses its transport; nothing is lost when somebody does."""
    payload = hashlib.sha256(b"x").digest() * 100_000
    connect = await serve(answering(payload))
    reader, writer = await connect(limit=1000)
    for _ in range(100):
        # The peer answers in the same loop: it may take a few turns to come to that.
        await polled(loop)
        if not writer.transport.is_reading():
            break
    assert not writer.transport.is_reading()
    assert await reader.read() == payload


async def test_drain_waits_for_the_peer(serve, loop):
    connect = await serve(echo)
    reader, writer = await connect()
    writer.transport.set_write_buffer_limits(high=0)
    payload = bytes(range(256)) * 40_000
    writer.write(payload)
    draining = loop.create_task(writer.drain())
    assert await reader.readexactly(len(payload)) == payload
    await draining
    assert writer.transport.get_write_buffer_size() == 0


async def test_several_tasks_may_drain(serve, loop):
    connect = await serve(echo)
    reader, writer = await connect()
    payload = bytes(1 << 20)

    async def write():
        writer.write(payload)
        await writer.drain()

    writing = [loop.create_task(write()) for _ in range(4)]
    assert len(await reader.readexactly(4 << 20)) == 4 << 20
    await asyncio.gather(*writing)


async def test_write_eof_ends_the_request_and_the_answer_still_comes(serve, loop):
    async def handler(reader, writer):
        writer.write(b"got %d" % len(await reader.read()))
        writer.close()

    connect = await serve(handler)
    reader, writer = await connect()
    writer.write(b"12345")
    assert writer.can_write_eof()
    writer.write_eof()
    assert await reader.read() == b"got 5"


async def test_writelines_sends_all(serve, loop):
    connect = await serve(echo)
    reader, writer = await connect()
    writer.writelines([b"one", b"two", b"three"])
    assert await reader.readexactly(11) == b"onetwothree"


async def test_wait_closed_waits_for_the_end(serve, loop):
    connect = await serve(echo)
    _, writer = await connect()
    assert not writer.is_closing()
    writer.close()
    assert writer.is_closing()
    await writer.wait_closed()
    assert writer.transport.is_closing()


async def test_a_handler_that_raises_is_reported(serve, loop, reports):
    async def handler(reader, writer):
        writer.close()
        raise ZeroDivisionError

    connect = await serve(handler)
    reader, _ = await connect()
    assert await reader.read() == b""
    while not reports:
        await asyncio.sleep(0)
    context = reports.take()
    assert context["message"] == "Unhandled exception in client_connected_cb"
    assert isinstance(context["exception"], ZeroDivisionError)


async def test_drain_after_the_peer_is_gone_is_an_error(serve, loop):
    async def handler(reader, writer):
        writer.transport.abort()

    connect = await serve(handler)
    reader, writer = await connect()
    assert await reader.read() == b""
    with pytest.raises(ConnectionError):
        while True:
            writer.write(bytes(100_000))
            await writer.drain()


async def test_a_cancelled_read_loses_nothing(serve, loop):
    connect = await serve(echo)
    reader, writer = await connect()
    reading = loop.create_task(reader.read(100))
    await polled(loop)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    writer.write(b"kept")
    assert await reader.readexactly(4) == b"kept"


async def test_much_goes_both_ways(serve, loop):
    connect = await serve(echo)
    reader, writer = await connect()
    payload = hashlib.sha256(b"velodrome").digest() * 100_000

    async def send():
        for start in range(0, len(payload), 50_000):
            writer.write(payload[start : start + 50_000])
            await writer.drain()

    _, received = await asyncio.gather(send(), reader.readexactly(len(payload)))
    assert received == payload


async def test_many_requests_and_answers(serve, loop):
    connect = await serve(echo)

    async def client(name):
        reader, writer = await connect()
        for number in range(100):
            message = b"%d.%d\n" % (name, number)
            writer.write(message)
            assert await reader.readline() == message

    await asyncio.gather(*(client(name) for name in range(10)))


async def test_a_request_in_two_writes_is_answered(serve, loop):
    async def handler(reader, writer):
        while head := await reader.readline():
            body = await reader.readexactly(int(head))
            writer.write(b"%d\n" % len(body))
            writer.write(body)
        writer.close()

    connect = await serve(handler)
    reader, writer = await connect()
    for number in range(1, 100):
        writer.write(b"%d\n" % number)
        writer.write(b"x" * number)
        assert await reader.readline() == b"%d\n" % number
        assert await reader.readexactly(number) == b"x" * number


async def test_the_address_of_the_peer_is_known(serve, loop):
    connect = await serve(echo)
    _, writer = await connect()
    assert writer.get_extra_info("peername") == writer.get_extra_info("socket").getpeername()


async def test_a_subclass_of_the_stream_reader_gets_the_data(loop, socket_pair):
    fed = []

    class Reader(asyncio.StreamReader):
        def feed_data(self, data):
            fed.append(data)
            super().feed_data(data)

    one, other = socket_pair
    reader = Reader()
    transport, _ = await loop.create_connection(lambda: asyncio.StreamReaderProtocol(reader), sock=one)
    other.send(b"data")
    assert await reader.readexactly(4) == b"data"
    assert b"".join(fed) == b"data"
    transport.close()
    await asyncio.sleep(0)


async def test_feeding_a_reader_by_hand_works_beside_the_transport(loop, socket_pair):
    one, other = socket_pair
    reader, writer = await asyncio.open_connection(sock=one)
    reader.feed_data(b"by hand,")
    other.send(b"by wire")
    assert await reader.readexactly(15) == b"by hand,by wire"
    writer.close()
    await writer.wait_closed()
