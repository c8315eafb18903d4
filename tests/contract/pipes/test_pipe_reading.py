"""The reading end of a pipe: what is delivered when, to whom, in which context, and what becomes of an exception."""

import asyncio
import fcntl
import functools
import logging
import os

import pytest
from checker import Pieces, Recorder, polled
from pipe_checker import WHO, Contextual

F_SETPIPE_SZ = 1031  # fcntl has the name from Python 3.10 on, where the C library has it


# --- what is delivered ----------------------------------------------------------------------------


async def test_a_read_takes_at_most_256_kib(loop, opened):
    reader, writer = opened("pipe")
    try:
        fcntl.fcntl(writer, F_SETPIPE_SZ, 1 << 20)
    except PermissionError:
        pytest.skip("large pipes are not allowed here")
    payload = os.urandom(300_000)
    assert writer.write(payload) == len(payload)
    transport, protocol = await loop.connect_read_pipe(Pieces, reader)
    assert await protocol.received(len(payload)) == payload
    assert [len(piece) for piece in protocol.pieces] == [262_144, len(payload) - 262_144]
    transport.close()
    await protocol.lost


async def test_there_is_one_read_an_iteration(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    transport.pause_reading()
    writer.write(b"first")
    seen = []
    protocol.data_received = lambda data: (seen.append(data), writer.write(b"next") if len(seen) < 3 else None)
    loop.call_soon(transport.resume_reading)
    while len(seen) < 3:
        await asyncio.sleep(0)
    assert seen == [b"first", b"next", b"next"]
    transport.close()
    await protocol.lost


async def test_the_last_data_and_the_end_come_one_after_the_other(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    transport.pause_reading()
    writer.write(b"the last")
    writer.close()
    await polled(loop)
    assert protocol.calls == ["connection_made"]
    assert not transport.is_closing()
    transport.resume_reading()
    await protocol.lost
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_the_end_is_decided_before_the_protocol_hears_of_it(loop, opened):
    class Looking(Recorder):
        def eof_received(self):
            self.was_closing = self.transport.is_closing()
            super().eof_received()

    reader, writer = opened("pipe")
    _, protocol = await loop.connect_read_pipe(Looking, reader)
    writer.close()
    await protocol.lost
    assert protocol.was_closing


async def test_close_in_data_received_is_the_end(loop, opened):
    class Once(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.close()

    reader, writer = opened("pipe")
    _, protocol = await loop.connect_read_pipe(Once, reader)
    writer.write(b"enough")
    writer.close()
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "data_received", "connection_lost"]


async def test_pause_and_resume_in_data_received(loop, opened):
    class Hesitant(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()
            self.transport.resume_reading()

    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Hesitant, reader)
    for count in range(1, 4):
        writer.write(b"x")
        await protocol.received(count)
    transport.close()
    await protocol.lost


async def test_a_pause_taken_back_in_the_first_call_is_none(loop, opened):
    class Hesitant(Recorder):
        def connection_made(self, transport):
            transport.pause_reading()
            transport.resume_reading()
            super().connection_made(transport)

    reader, writer = opened("pipe")
    writer.write(b"early")
    transport, protocol = await loop.connect_read_pipe(Hesitant, reader)
    assert await protocol.received(5) == b"early"
    transport.close()
    await protocol.lost


async def test_close_in_the_first_call(loop, opened):
    class Brief(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.close()

    reader, writer = opened("pipe")
    writer.write(b"unheard")
    _, protocol = await loop.connect_read_pipe(Brief, reader)
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_a_buffered_protocol_is_not_for_pipes(loop, opened, reports):
    class Buffered(asyncio.BufferedProtocol):
        def get_buffer(self, sizehint):
            raise AssertionError("asked for a buffer")

    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Buffered, reader)
    writer.write(b"x")
    while not reports:
        await asyncio.sleep(0)
    assert isinstance(reports.take()["exception"], AttributeError)
    transport.close()
    await polled(loop)


# --- asyncio's streams ----------------------------------------------------------------------------


async def test_a_stream_reader_that_is_full_pauses_the_pipe(loop, opened):
    reader, writer = opened("pipe")
    stream = asyncio.StreamReader(limit=10)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), reader)
    writer.write(b"x" * 21)
    while transport.is_reading():
        await asyncio.sleep(0)
    writer.write(b"y" * 21)
    assert await stream.readexactly(42) == b"x" * 21 + b"y" * 21
    assert transport.is_reading()
    writer.close()
    assert await stream.read() == b""


@pytest.mark.parametrize("where", ["class", "object"])
async def test_a_replaced_feed_data_is_called(loop, opened, monkeypatch, where):
    reader, writer = opened("pipe")
    stream = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), reader)
    fed = []
    original = asyncio.StreamReader.feed_data

    def feed_data(self, data):
        fed.append(data)
        original(self, data)

    if where == "class":
        monkeypatch.setattr(asyncio.StreamReader, "feed_data", feed_data)
    else:
        stream.feed_data = functools.partial(feed_data, stream)
    writer.write(b"hello")
    assert await stream.readexactly(5) == b"hello"
    assert fed == [b"hello"]
    transport.close()
    await polled(loop)


async def test_streams_may_take_over(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    writer.write(b"first")
    await protocol.received(5)
    stream = asyncio.StreamReader()
    streams = asyncio.StreamReaderProtocol(stream)
    streams.connection_made(transport)
    transport.set_protocol(streams)
    writer.write(b"second")
    assert await stream.readexactly(6) == b"second"
    transport.set_protocol(protocol)
    writer.write(b"third")
    assert await protocol.received(10) == b"firstthird"
    transport.close()
    await protocol.lost


async def test_data_after_feed_eof_is_an_error_of_the_streams(loop, opened, reports):
    reader, writer = opened("pipe")
    stream = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), reader)
    stream.feed_eof()
    writer.write(b"too late")
    while not reports:
        await asyncio.sleep(0)
    assert isinstance(reports.take()["exception"], AssertionError)
    transport.close()
    await polled(loop)


# --- exceptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("debug", [False, True])
async def test_an_exception_is_that_of_a_callback(loop, opened, reports, debug):
    class Failing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise ZeroDivisionError(data.decode())

    loop.set_debug(debug)
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Failing, reader)
    for word in (b"one", b"two"):
        writer.write(word)
        while not reports:
            await asyncio.sleep(0)
        context = reports.take()
        assert context["message"].startswith("Exception in callback ")
        assert "PipeTransport._read_ready()" in context["message"]
        assert isinstance(context["handle"], asyncio.Handle)
        assert str(context["exception"]) == word.decode()
        assert transport.is_reading()
    transport.close()
    await protocol.lost


def test_an_exception_is_reported_in_the_readers_context(new_loop, opened):
    class Failing(Recorder):
        def data_received(self, data):
            raise ZeroDivisionError

    async def main():
        reader, writer = opened("pipe")
        WHO.set("connecting")
        transport, protocol = await loop.connect_read_pipe(Failing, reader)
        writer.write(b"x")
        while not seen:
            await asyncio.sleep(0)
        transport.close()
        await protocol.lost

    seen = []
    loop = new_loop()
    loop.set_exception_handler(lambda loop, context: seen.append(context["handle"]._context.get(WHO)))
    loop.run_until_complete(main())
    loop.close()
    assert seen == ["connecting"]


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_program_leaves_the_loop(new_loop, opened, exception):
    class Ending(Recorder):
        def data_received(self, data):
            raise exception

    async def connect():
        return await loop.connect_read_pipe(Ending, reader)

    loop = new_loop()
    reader, writer = opened("pipe")
    transport, protocol = loop.run_until_complete(connect())
    writer.write(b"x")
    with pytest.raises(exception):
        loop.run_forever()
    assert not transport.is_closing()
    transport.close()
    loop.run_until_complete(protocol.lost)
    loop.close()


async def test_an_error_of_the_system_is_reported(loop, opened, reports):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    # Something that is ready at once and cannot be read takes the pipe's place.
    wrong = os.open("/", os.O_RDONLY)
    kept = os.dup(reader.fileno())
    os.dup2(wrong, reader.fileno())
    os.close(wrong)
    writer.write(b"x")  # the poller knows the pipe still, by its twin
    exception = await protocol.lost
    os.close(kept)
    assert isinstance(exception, IsADirectoryError)
    context = reports.take()
    assert context["message"] == "Fatal read error on pipe transport"
    assert context["exception"] is exception
    assert context["transport"] is transport
    assert context["protocol"] is protocol


async def test_a_terminal_that_hangs_up_is_only_logged(loop, opened, caplog):
    loop.set_debug(True)
    caplog.set_level(logging.DEBUG, "asyncio")
    reader, writer = opened("terminal")
    _, protocol = await loop.connect_read_pipe(Recorder, reader)
    writer.close()
    exception = await protocol.lost
    assert isinstance(exception, OSError)
    (record,) = [record for record in caplog.records if "Fatal" in record.getMessage()]
    assert record.getMessage().endswith(">: Fatal read error on pipe transport")
    assert record.exc_info[1] is exception


async def test_what_cannot_be_watched_is_told_when_it_is_resumed(loop, reports):
    with open("/dev/null", "rb", 0) as null:
        transport, protocol = await loop.connect_read_pipe(Recorder, null)
        assert isinstance(reports.take()["exception"], PermissionError)
        transport.pause_reading()
        with pytest.raises(PermissionError):
            transport.resume_reading()
        transport.close()
        assert await protocol.lost is None


# --- contexts -------------------------------------------------------------------------------------


async def test_each_call_has_the_context_of_who_connected(loop, opened):
    reader, writer = opened("pipe")
    WHO.set("connecting")
    _, protocol = await loop.connect_read_pipe(Contextual, reader)
    WHO.set("later")
    writer.write(b"x")
    await protocol.received(1)
    writer.close()
    await protocol.lost
    assert set(protocol.contexts.values()) == {"connecting"}


async def test_reading_goes_on_in_the_context_of_who_resumed_it(loop, opened):
    reader, writer = opened("pipe")
    WHO.set("connecting")
    transport, protocol = await loop.connect_read_pipe(Contextual, reader)
    transport.pause_reading()
    WHO.set("resuming")
    transport.resume_reading()
    WHO.set("later")
    writer.write(b"x")
    await protocol.received(1)
    writer.close()
    await protocol.lost
    assert protocol.contexts == {
        "connection_made": "connecting",
        "data_received": "resuming",
        "eof_received": "resuming",
        "connection_lost": "resuming",
    }


async def test_what_one_call_sets_another_one_reads(loop, opened):
    class Setting(Contextual):
        def data_received(self, data):
            super().data_received(data)
            WHO.set(data.decode())

    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Setting, reader)
    writer.write(b"x")
    await protocol.received(1)
    writer.write(b"y")
    await protocol.received(2)
    assert protocol.contexts["data_received"] == "x"
    assert WHO.get() == "nobody"
    transport.close()
    await protocol.lost
    assert protocol.contexts["connection_lost"] == "nobody"
