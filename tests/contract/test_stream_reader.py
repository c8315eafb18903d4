"""How asyncio's StreamReader is fed: by what a program has made of it, with or without TLS."""

import asyncio

import pytest


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(params=["tcp", "tls"])
def connect(request, loop, certificates):
    """Connects a client: (reader, writer, the server's writer)."""
    opened = []
    theirs, ours = (
        ({"ssl": certificates.server_context()}, {"ssl": certificates.client_context(), "server_hostname": "localhost"})
        if request.param == "tls"
        else ({}, {})
    )

    async def connect(**options):
        accepted = loop.create_future()
        server = await asyncio.start_server(
            lambda reader, writer: accepted.set_result((reader, writer)), "127.0.0.1", 0, **theirs
        )
        opened.append(server)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), **ours, **options)
        # Without its reader the server's side would end.
        peer_reader, peer = await accepted
        peer.transport.reader = peer_reader
        opened[1:] = [(each, each.get_extra_info("socket")) for each in (writer, peer)]
        return reader, writer, peer

    yield connect

    async def close_all():
        server, *ends = opened
        for writer, _ in ends:
            writer.transport.abort()
            writer.close()
        await until(lambda: all(sock.fileno() == -1 for _, sock in ends))
        server.close()
        await server.wait_closed()

    loop.run_until_complete(close_all())


async def test_data_come_in_order(connect):
    reader, writer, peer = await connect()
    for number in range(300):
        peer.write(f"{number}\n".encode())
    for number in range(300):
        assert await reader.readline() == f"{number}\n".encode()


async def test_what_has_come_is_in_the_buffer_until_it_is_read(connect):
    reader, writer, peer = await connect()
    peer.write(b"abc")
    await until(lambda: reader._buffer == b"abc")
    peer.write(b"def")
    assert await reader.readexactly(6) == b"abcdef"
    assert reader._buffer == b""


async def test_a_reader_that_gave_up_loses_nothing(connect):
    reader, writer, peer = await connect()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(10), 0.01)
    peer.write(b"later")
    assert await reader.readexactly(5) == b"later"


async def test_a_reader_that_gives_up_when_data_come_loses_nothing(loop, connect):
    reader, writer, peer = await connect()
    reading = loop.create_task(reader.read(10))
    await asyncio.sleep(0)
    reader._waiter.cancel()
    peer.write(b"later")
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await reader.readexactly(5) == b"later"


async def test_too_much_pauses_the_transport_until_it_is_read(connect):
    reader, writer, peer = await connect(limit=1000)
    data = bytes(range(256)) * 4000
    peer.write(data)
    await until(lambda: reader._paused)
    assert not writer.transport.is_reading()
    assert len(reader._buffer) > 2000
    assert await reader.readexactly(len(data)) == data
    assert writer.transport.is_reading()
    assert not reader._paused


@pytest.mark.parametrize("limit", [2.5, 10**30])
async def test_a_limit_is_any_number(connect, limit):
    reader, writer, peer = await connect(limit=limit)
    peer.write(b"12345")
    await until(lambda: len(reader._buffer) == 5)
    assert not reader._paused
    peer.write(b"6")
    await until(lambda: len(reader._buffer) == 6)
    assert reader._paused is (limit < 3)


async def test_a_reader_forgets_a_transport_that_cannot_be_paused(connect):
    class Unpausable(asyncio.Transport):
        pass

    reader, writer, peer = await connect(limit=2)
    reader._transport = Unpausable()
    peer.write(b"12345")
    assert await reader.readexactly(5) == b"12345"
    assert reader._transport is None
    peer.write(b"67890")
    assert await reader.readexactly(5) == b"67890"


async def test_a_method_of_the_object_is_called(connect):
    reader, writer, peer = await connect()
    fed = []
    original = reader.feed_data
    reader.feed_data = lambda data: (fed.append(type(data)), original(data))
    peer.write(b"abc")
    assert await reader.readexactly(3) == b"abc"
    assert fed == [bytes]
    del reader.feed_data
    received = []
    protocol = writer.transport.get_protocol()
    protocol.data_received = received.append
    peer.write(b"def")
    await until(lambda: received)
    assert received == [b"def"]


@pytest.mark.parametrize("name", ["feed_data", "data_received"])
async def test_a_method_that_was_replaced_on_the_class_is_called(connect, monkeypatch, name):
    reader, writer, peer = await connect()
    cls = asyncio.StreamReader if name == "feed_data" else asyncio.StreamReaderProtocol
    original = getattr(cls, name)
    received = []

    def replacement(self, data):
        if self in (reader, writer.transport.get_protocol()):
            received.append(data)
        original(self, data)

    monkeypatch.setattr(cls, name, replacement)
    peer.write(b"abc")
    assert await reader.readexactly(3) == b"abc"
    assert received == [b"abc"]


async def test_a_reader_of_another_class_is_fed_by_its_methods(loop, connect):
    class Reader(asyncio.StreamReader):
        def feed_data(self, data):
            super().feed_data(data.upper())

    _, writer, peer = await connect()
    reader = Reader()
    writer.transport.set_protocol(asyncio.StreamReaderProtocol(reader))
    peer.write(b"abc")
    assert await reader.readexactly(3) == b"ABC"


async def test_a_protocol_of_another_class_is_called(loop, connect):
    class Protocol(asyncio.StreamReaderProtocol):
        def data_received(self, data):
            super().data_received(data.upper())

    _, writer, peer = await connect()
    reader = asyncio.StreamReader()
    writer.transport.set_protocol(Protocol(reader))
    peer.write(b"abc")
    assert await reader.readexactly(3) == b"ABC"


async def test_a_protocol_whose_reader_is_gone_takes_no_data(connect, reports):
    reader, writer, peer = await connect()
    protocol = writer.transport.get_protocol()
    protocol._stream_reader_wr = None
    peer.write(b"lost")
    await asyncio.sleep(0.05)
    assert reader._buffer == b""
    assert not writer.transport.is_closing()


async def test_data_after_feed_eof_are_an_error(connect, reports):
    reader, writer, peer = await connect()
    reader.feed_eof()
    peer.write(b"more")
    await until(lambda: reports)
    error = reports.take()["exception"]
    assert isinstance(error, AssertionError)
    assert "feed_data after feed_eof" in str(error)
    assert reader._buffer == b""


async def test_a_buffer_that_somebody_looks_at_is_an_error(connect, reports):
    reader, writer, peer = await connect()
    with memoryview(reader._buffer):
        peer.write(b"more")
        await until(lambda: reports)
    error = reports.take()["exception"]
    assert isinstance(error, BufferError)
    assert str(error) == "Existing exports of data: object cannot be re-sized"
    with pytest.raises(BufferError):
        await reader.read()


async def test_a_buffer_of_another_kind_is_extended(connect):
    class Buffer(bytearray):
        def extend(self, data):
            super().extend(data.upper())

    reader, writer, peer = await connect()
    reader._buffer = Buffer()
    peer.write(b"abc")
    assert await reader.readexactly(3) == b"ABC"


async def test_a_future_of_another_kind_is_woken(loop, connect):
    woken = []

    class Future(asyncio.futures._PyFuture):
        def set_result(self, result):
            woken.append(result)
            super().set_result(result)

    reader, writer, peer = await connect()
    waiter = Future(loop=loop)
    reader._waiter = waiter
    peer.write(b"abc")
    await waiter
    assert woken == [None]
    assert reader._waiter is None
    assert await reader.readexactly(3) == b"abc"
