"""What a pipe's transport is: its class, its words, its pipe object, and its place among other watchers."""

import asyncio
import gc
import logging
import os
import pty
import socket
import tty

import pytest
from checker import Recorder, fill, polled
from pipe_checker import until_readable
from support import warning_texts


async def connect(loop, opened, method, kind="pipe"):
    """A transport of one end, its protocol, its pipe object and the other end's."""
    reader, writer = opened(kind)
    ours, other = (reader, writer) if method == "connect_read_pipe" else (writer, reader)
    transport, protocol = await getattr(loop, method)(Recorder, ours)
    return transport, protocol, ours, other


EACH_WAY = pytest.mark.parametrize("method", ["connect_read_pipe", "connect_write_pipe"])


def words(transport):
    """`repr` without the name of the class."""
    text = repr(transport)
    assert text[0] == "<"
    assert text[-1] == ">"
    return text[1:-1].split(" ", 1)[1]


# --- what it is -----------------------------------------------------------------------------------


async def test_it_is_an_instance_of_asyncios_classes(loop, opened):
    reader, writer = opened("pipe")
    reading, _ = await loop.connect_read_pipe(Recorder, reader)
    writing, _ = await loop.connect_write_pipe(Recorder, writer)
    assert isinstance(reading, asyncio.ReadTransport)
    assert not isinstance(reading, asyncio.WriteTransport)
    assert isinstance(writing, asyncio.WriteTransport)
    assert isinstance(writing, asyncio.Transport)
    assert not hasattr(reading, "write")
    assert not hasattr(reading, "abort")
    reading.close()
    writing.close()
    await asyncio.gather(reading.get_protocol().lost, writing.get_protocol().lost)


@pytest.mark.parametrize("name", ["is_reading", "pause_reading", "resume_reading"])
async def test_what_is_written_is_not_read(loop, opened, name):
    transport, protocol, *_ = await connect(loop, opened, "connect_write_pipe")
    with pytest.raises(NotImplementedError):
        getattr(transport, name)()
    transport.close()
    await protocol.lost


@EACH_WAY
async def test_its_words(loop, opened, method):
    transport, protocol, ours, _ = await connect(loop, opened, method)
    number = ours.fileno()
    written = method == "connect_write_pipe"
    assert words(transport) == f"fd={number} " + ("idle bufsize=0" if written else "polling")
    if written:
        fill(transport)
        size = transport.get_write_buffer_size()
        assert words(transport) == f"fd={number} polling bufsize={size}"
        transport.close()
        assert words(transport) == f"closing fd={number} polling bufsize={size}"
        transport.abort()
        assert words(transport) == f"closing fd={number} idle bufsize=0"
    else:
        transport.pause_reading()
        assert words(transport) == f"fd={number} idle"
        transport.close()
        assert words(transport) == f"closing fd={number} idle"
    await protocol.lost
    assert words(transport) == f"closed fd={number} closed"


@EACH_WAY
async def test_what_it_knows(loop, opened, method):
    transport, protocol, ours, _ = await connect(loop, opened, method)
    assert transport.get_extra_info("pipe") is ours
    assert transport.get_extra_info("peername") is None
    assert transport.get_extra_info("peername", default=3) == 3
    assert transport.get_protocol() is protocol
    transport.close()
    await protocol.lost
    assert transport.get_protocol() is None
    assert transport.get_extra_info("pipe") is ours


@EACH_WAY
async def test_a_program_may_put_its_own_methods_on_it(loop, opened, method):
    transport, protocol, *_ = await connect(loop, opened, method)
    called = []
    transport.close = lambda: called.append("close")
    transport.close()
    assert called == ["close"]
    assert not transport.is_closing()
    del transport.close
    transport.close()
    await protocol.lost


# --- the beginning --------------------------------------------------------------------------------


# asyncio's transport raises once more when it is deleted.
HALF_MADE = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@HALF_MADE
@EACH_WAY
@pytest.mark.parametrize("what", [None, 3, "text", object()])
async def test_what_has_no_descriptor_is_no_pipe(loop, method, what):
    with pytest.raises(AttributeError, match="fileno"):
        await getattr(loop, method)(Recorder, what)
    gc.collect()


@HALF_MADE
@EACH_WAY
async def test_a_closed_file_is_no_pipe(loop, opened, method):
    reader, _ = opened("pipe")
    reader.close()
    with pytest.raises(ValueError, match="I/O operation on closed file"):
        await getattr(loop, method)(Recorder, reader)
    gc.collect()


@EACH_WAY
async def test_a_socket_object_is_a_pipe(loop, method):
    ours, other = socket.socketpair()
    with ours, other:
        transport, protocol = await getattr(loop, method)(Recorder, ours)
        assert transport.get_extra_info("pipe") is ours
        if method == "connect_read_pipe":
            other.send(b"hello")
            assert await protocol.received(5) == b"hello"
        else:
            transport.write(b"hello")
            assert other.recv(10) == b"hello"
        transport.close()
        await protocol.lost
        assert ours.fileno() == -1


@EACH_WAY
def test_a_loop_may_make_transports_in_another_way(loop_name, opened, method):
    module = __import__(loop_name)
    base = asyncio.SelectorEventLoop if loop_name == "asyncio" else module.Loop
    hook = "_make_read_pipe_transport" if method == "connect_read_pipe" else "_make_write_pipe_transport"
    made = []

    def make(self, pipe, protocol, waiter=None, extra=None):
        transport = getattr(base, hook)(self, pipe, protocol, waiter, {"more": "information"})
        made.append(transport)
        return transport

    loop = type("Other", (base,), {hook: make})()
    try:

        async def main():
            transport, protocol, ours, _ = await connect(loop, opened, method)
            assert made == [transport]
            assert transport.get_extra_info("more") == "information"
            assert transport.get_extra_info("pipe") is ours
            transport.close()
            await protocol.lost

        loop.run_until_complete(main())
    finally:
        loop.close()


@EACH_WAY
async def test_what_connection_made_raises_is_reported(loop, opened, reports, method):
    class Failing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

    reader, writer = opened("pipe")
    ours = reader if method == "connect_read_pipe" else writer
    transport, protocol = await getattr(loop, method)(Failing, ours)
    context = reports.take()
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["message"].startswith("Exception in callback")
    assert "connection_made" in context["message"]
    assert isinstance(context["handle"], asyncio.Handle)
    assert not transport.is_closing()
    transport.close()
    await protocol.lost


# --- the end --------------------------------------------------------------------------------------


@EACH_WAY
async def test_what_connection_lost_raises_is_reported_and_the_pipe_is_closed(loop, opened, reports, method):
    class Failing(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError

    reader, writer = opened("pipe")
    ours = reader if method == "connect_read_pipe" else writer
    transport, protocol = await getattr(loop, method)(Failing, ours)
    transport.close()
    await protocol.lost
    context = reports.take()
    assert isinstance(context["exception"], ZeroDivisionError)
    assert "_call_connection_lost" in context["message"]
    assert ours.closed
    assert transport.get_protocol() is None


@EACH_WAY
async def test_what_both_ends_raise_is_reported(loop, opened, reports, method):
    """The pipe object's, raised while the protocol's was under way. (asyncio closes the pipe once more then.)"""

    class Failing(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError

    class Pipe:
        def __init__(self, file):
            self.fileno = file.fileno
            self.files = [file]

        def close(self):
            if self.files:
                self.files.pop().close()
                raise KeyError("the pipe's")

    reader, writer = opened("pipe")
    ours = reader if method == "connect_read_pipe" else writer
    transport, protocol = await getattr(loop, method)(Failing, Pipe(ours))
    transport.close()
    await protocol.lost
    exception = reports.take()["exception"]
    assert isinstance(exception, KeyError)
    assert isinstance(exception.__context__, ZeroDivisionError)
    assert ours.closed
    with warning_texts():
        del transport, protocol, exception
        gc.collect()


@EACH_WAY
async def test_connection_lost_is_never_called_in_close(loop, opened, method):
    transport, protocol, ours, _ = await connect(loop, opened, method)
    transport.close()
    assert transport.is_closing()
    assert "connection_lost" not in protocol.calls
    assert not ours.closed
    await protocol.lost
    # The pipe is closed when the protocol knows, before anything else runs.
    assert ours.closed


async def test_the_pipe_is_closed_after_connection_lost(loop, opened):
    class Looking(Recorder):
        def connection_lost(self, exc):
            self.closed = self.transport.get_extra_info("pipe").closed
            super().connection_lost(exc)

    reader, _ = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Looking, reader)
    transport.close()
    await protocol.lost
    assert not protocol.closed
    assert reader.closed


@EACH_WAY
async def test_a_closed_transport_takes_everything(loop, opened, method):
    transport, protocol, *_ = await connect(loop, opened, method)
    transport.close()
    for _ in range(2):
        transport.close()
        assert transport.is_closing()
        if method == "connect_read_pipe":
            assert not transport.is_reading()
            transport.pause_reading()
            transport.resume_reading()
        else:
            transport.write(b"nobody hears")
            transport.writelines([b"no", b"body"])
            transport.write_eof()
            assert transport.get_write_buffer_size() == 0
        await protocol.lost
    assert protocol.calls == ["connection_made", "connection_lost"]


@EACH_WAY
async def test_the_end_goes_through_call_soon(loop, opened, method):
    transport, protocol, *_ = await connect(loop, opened, method)
    order = []
    protocol.note = order.append
    loop.call_soon(order.append, "before")
    transport.close()
    loop.call_soon(order.append, "after")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == ["before", "connection_lost", "after"]


@EACH_WAY
def test_a_transport_outlives_its_loop(new_loop, opened, method):
    loop = new_loop()

    async def main():
        return await connect(loop, opened, method)

    transport, protocol, ours, _ = loop.run_until_complete(main())
    loop.close()
    assert words(transport) == f"fd={ours.fileno()} open"
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.close()
    assert transport.is_closing()
    assert protocol.calls == ["connection_made"]
    with warning_texts() as texts:
        protocol.transport = protocol.made = None
        del transport
        gc.collect()
    assert [text for text in texts if "unclosed transport" in text]
    assert ours.closed


@EACH_WAY
async def test_one_that_nobody_closed_says_so_and_closes_the_pipe(loop, opened, method):
    transport, protocol, ours, _ = await connect(loop, opened, method)
    number = ours.fileno()
    loop.remove_reader(number)  # which would keep it alive
    with warning_texts() as texts:
        protocol.transport = protocol.made = None
        del transport
        gc.collect()
    (text,) = texts
    assert text.startswith("unclosed transport <")
    assert f" fd={number} " in text
    assert ours.closed
    assert protocol.calls == ["connection_made"]


# --- debug mode -----------------------------------------------------------------------------------


async def test_debug_mode_tells_of_pauses_and_of_hang_ups(loop, opened, caplog):
    loop.set_debug(True)
    caplog.set_level(logging.DEBUG, "asyncio")
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    caplog.clear()
    transport.pause_reading()
    transport.pause_reading()
    transport.resume_reading()
    transport.resume_reading()
    writer.close()
    await protocol.lost
    said = [(record.levelname, record.getMessage().split("> ")[-1]) for record in caplog.records]
    assert [each for each in said if "Executing" not in each[1]] == [
        ("DEBUG", "pauses reading"),
        ("DEBUG", "resumes reading"),
        ("INFO", "was closed by peer"),
    ]


async def test_debug_mode_tells_of_a_reader_that_is_gone(loop, opened, caplog):
    loop.set_debug(True)
    caplog.set_level(logging.DEBUG, "asyncio")
    reader, writer = opened("pipe")
    _, protocol = await loop.connect_write_pipe(Recorder, writer)
    caplog.clear()
    reader.close()
    await protocol.lost
    assert [record.levelname for record in caplog.records if "was closed by peer" in record.getMessage()] == ["INFO"]


async def test_debug_mode_tells_of_the_systems_errors(loop, opened, caplog):
    loop.set_debug(True)
    caplog.set_level(logging.DEBUG, "asyncio")
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    caplog.clear()
    reader.close()
    transport.write(b"x")
    assert isinstance(await protocol.lost, BrokenPipeError)
    (record,) = [record for record in caplog.records if "Fatal" in record.getMessage()]
    assert record.getMessage().endswith(">: Fatal write error on pipe transport")
    assert isinstance(record.exc_info[1], BrokenPipeError)


# --- the descriptor is not its alone --------------------------------------------------------------


async def test_a_terminal_is_read_and_written_by_one_descriptor(loop):
    ours, other = pty.openpty()
    tty.setraw(other)
    with os.fdopen(ours, "r+b", 0) as terminal, os.fdopen(other, "r+b", 0) as peer:
        reading, received = await loop.connect_read_pipe(Recorder, terminal)
        writing, sender = await loop.connect_write_pipe(Recorder, terminal)
        for number in range(3):
            writing.write(b"question")
            await until_readable(loop, peer)
            assert peer.read(100) == b"question"
            peer.write(b"answer")
            await received.received(6 * (number + 1))
        # Full in one direction, it is read in the other.
        fill(writing)
        peer.write(b"still")
        await received.received(23)
        writing.abort()
        await sender.lost
        assert terminal.closed
        reading.close()
        await received.lost


async def test_a_reader_of_the_programs_takes_the_transports_place(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    seen = loop.create_future()
    loop.add_reader(reader.fileno(), lambda: seen.done() or seen.set_result(os.read(reader.fileno(), 10)))
    writer.write(b"for me")
    assert await seen == b"for me"
    assert loop.remove_reader(reader.fileno())
    writer.write(b"for nobody")
    await polled(loop)
    assert not protocol.data
    transport.pause_reading()
    transport.resume_reading()
    assert await protocol.received(10) == b"for nobody"
    transport.close()
    await protocol.lost


async def test_a_program_may_take_the_transports_reader_away(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    assert loop.remove_reader(reader.fileno())
    assert not loop.remove_reader(reader.fileno())
    assert words(transport) == f"fd={reader.fileno()} idle"
    writer.write(b"unheard")
    await polled(loop)
    assert not protocol.data
    assert transport.is_reading()
    transport.close()
    await protocol.lost


async def test_a_reader_that_is_taken_away_is_not_called_any_more(loop, opened):
    """Though both were found ready at the same look."""
    pairs = [opened("pipe") for _ in range(2)]
    connections = [await loop.connect_read_pipe(Recorder, reader) for reader, _ in pairs]
    for (transport, protocol), (other, _) in zip(connections, reversed(connections), strict=True):
        protocol.data_received = lambda data, transport=transport, other=other: other.pause_reading()
    for _, writer in pairs:
        writer.write(b"x")
    await polled(loop)
    assert [transport.is_reading() for transport, _ in connections].count(True) == 1
    for transport, protocol in connections:
        transport.close()
        await protocol.lost


async def test_a_number_that_is_used_again_is_the_new_ones(loop, opened):
    """A pipe object that a program closed behind the transport's back."""
    reader, _ = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    transport.pause_reading()
    number = reader.fileno()
    reader.close()
    new_reader, new_writer = opened("pipe")
    assert new_reader.fileno() == number
    new_transport, new_protocol = await loop.connect_read_pipe(Recorder, new_reader)
    new_writer.write(b"first")
    await new_protocol.received(5)
    assert not protocol.data
    new_transport.close()
    await new_protocol.lost
    transport.close()
    await protocol.lost
