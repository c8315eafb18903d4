"""The writing end of a pipe: what goes out when, flow control, and how it ends."""

import array
import asyncio
import os

import pytest
from checker import Recorder, fill, polled
from pipe_checker import WHO, Contextual, until_readable


async def drain(loop, reader, count):
    """Read `count` bytes that the loop writes meanwhile."""
    data = b""
    while len(data) < count:
        await until_readable(loop, reader)
        data += reader.read(count - len(data))
    return data


# --- what goes out --------------------------------------------------------------------------------


async def test_each_write_goes_out_by_itself(loop, opened):
    """Also the second and third of an iteration: small ones are one piece to whoever reads."""
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    for _ in range(3):
        await asyncio.sleep(0)
        for piece in (b"one", b"two", b"three"):
            transport.write(piece)
            assert reader.read(100) == piece
    transport.close()
    await protocol.lost


async def test_lines_are_joined_and_written(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    transport.writelines(iter([b"one", bytearray(b"two"), memoryview(b"three"), b""]))
    assert reader.read(100) == b"onetwothree"
    with pytest.raises(TypeError):
        transport.writelines([b"one", "two"])
    with pytest.raises(TypeError):
        transport.writelines(3)
    transport.writelines([])
    transport.close()
    await protocol.lost


async def test_lines_go_through_write(loop, opened):
    _, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    written = []
    transport.write = written.append
    transport.writelines([b"one", b"two"])
    assert written == [b"onetwo"]
    transport.close()
    await protocol.lost


@pytest.mark.parametrize("what", ["text", 3, None, [b"list"], array.array("B", [1, 2])])
async def test_only_bytes_are_written(loop, opened, what):
    _, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    with pytest.raises(AssertionError) as caught:
        transport.write(what)
    assert caught.value.args == (repr(what),)
    for wrong in ((), (b"one", b"two")):
        with pytest.raises(TypeError):
            transport.write(*wrong)
    with pytest.raises(TypeError):
        transport.write(b"one", other=2)
    assert not transport.is_closing()
    transport.write(data=b"by name")
    transport.close()
    await protocol.lost


async def test_a_subclass_of_bytes_is_written(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    transport.write(type("Mine", (bytes,), {})(b"mine"))
    assert reader.read(100) == b"mine"
    transport.close()
    await protocol.lost


async def test_what_waits_is_a_copy(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    written = fill(transport)
    data = bytearray(b"as it was")
    transport.write(data)
    transport.write(memoryview(data)[:2])
    data[:] = b"something else"
    transport.close()
    got = await drain(loop, reader, len(written) + 11)
    assert got == written + b"as it wasas"
    await protocol.lost


@pytest.mark.differs("asyncio counts the items of a memoryview, not its bytes", run=False)
async def test_a_memoryview_of_larger_items_is_written(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    numbers = array.array("I", range(10))
    transport.write(memoryview(numbers))
    assert transport.get_write_buffer_size() == 0
    assert reader.read(100) == numbers.tobytes()
    transport.close()
    await protocol.lost


@pytest.mark.differs("asyncio ends with a BufferError")
async def test_every_second_byte_is_written(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    transport.write(memoryview(b"a.b.c.")[::2])
    assert not transport.is_closing()
    assert reader.read(100) == b"abc"
    transport.close()
    await protocol.lost


async def test_many_small_pieces_wait_and_arrive_in_order(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    written = fill(transport)
    for number in range(1000):
        piece = b"%d," % number
        transport.write(piece if number % 2 else bytearray(piece))
        written += piece
    transport.close()
    assert await drain(loop, reader, len(written)) == written
    assert await protocol.lost is None


# --- flow control ---------------------------------------------------------------------------------


async def test_limits(loop, opened):
    _, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    transport.set_write_buffer_limits(high=100)
    assert transport.get_write_buffer_limits() == (25, 100)
    transport.set_write_buffer_limits(low=100)
    assert transport.get_write_buffer_limits() == (100, 400)
    transport.set_write_buffer_limits(high=0)
    assert transport.get_write_buffer_limits() == (0, 0)
    with pytest.raises(ValueError, match=r"high \(1\) must be >= low \(2\) must be >= 0"):
        transport.set_write_buffer_limits(high=1, low=2)
    with pytest.raises(ValueError, match="must be >= 0"):
        transport.set_write_buffer_limits(low=-1)
    assert "pause_writing" not in protocol.calls
    transport.close()
    await protocol.lost


async def test_a_lower_limit_pauses_at_once(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    transport.set_write_buffer_limits(high=1 << 20)
    written = fill(transport)
    assert "pause_writing" not in protocol.calls
    transport.set_write_buffer_limits(high=1)
    assert protocol.calls.count("pause_writing") == 1
    transport.set_write_buffer_limits(high=0)
    transport.write(b"x")
    assert protocol.calls.count("pause_writing") == 1
    await drain(loop, reader, len(written) + 1)
    await protocol.called("resume_writing")
    assert transport.get_write_buffer_size() == 0
    transport.close()
    await protocol.lost


@pytest.mark.parametrize("more", [b"more", b"m" * 100_000])
async def test_more_may_be_written_in_resume_writing(loop, opened, more):
    class Eager(Recorder):
        def resume_writing(self):
            if "resume_writing" not in self.calls:
                self.transport.write(more)
            super().resume_writing()

    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Eager, writer)
    transport.set_write_buffer_limits(high=0)
    written = fill(transport)
    assert await drain(loop, reader, len(written) + len(more)) == written + more
    transport.close()
    assert await protocol.lost is None


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.differs("asyncio ends it twice", run=False)
async def test_it_may_be_closed_in_resume_writing(loop, opened, end):
    class Done(Recorder):
        def resume_writing(self):
            super().resume_writing()
            getattr(self.transport, end)()

    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Done, writer)
    transport.set_write_buffer_limits(high=0)
    written = fill(transport)
    assert await drain(loop, reader, len(written)) == written
    assert await protocol.lost is None
    await polled(loop)
    assert protocol.calls.count("connection_lost") == 1


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
async def test_what_flow_control_raises_is_reported(loop, opened, reports, name):
    class Failing(Recorder):
        pass

    def fail(self):
        Recorder.note(self, name)
        raise ZeroDivisionError

    setattr(Failing, name, fail)
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Failing, writer)
    transport.set_write_buffer_limits(high=0)
    written = fill(transport)
    await drain(loop, reader, len(written))
    await protocol.called("resume_writing")
    context = reports.take()
    assert context["message"] == f"protocol.{name}() failed"
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["transport"] is transport
    assert context["protocol"] is protocol
    assert not transport.is_closing()
    transport.close()
    await protocol.lost


async def test_flow_control_happens_in_the_context_of_who_writes(loop, opened):
    reader, writer = opened("pipe")
    WHO.set("connecting")
    transport, protocol = await loop.connect_write_pipe(Contextual, writer)
    transport.set_write_buffer_limits(high=0)
    WHO.set("writing")
    written = fill(transport)
    WHO.set("later")
    await drain(loop, reader, len(written))
    await protocol.called("resume_writing")
    reader.close()
    await protocol.lost
    assert protocol.contexts == {
        "connection_made": "connecting",
        "pause_writing": "writing",
        "resume_writing": "writing",
        "connection_lost": "connecting",
    }


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_connection_lost_comes_with_the_last_write(loop, opened, end):
    class Looking(Recorder):
        def connection_lost(self, exc):
            self.size = self.transport.get_write_buffer_size()
            super().connection_lost(exc)

    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Looking, writer)
    written = fill(transport)
    getattr(transport, end)()
    assert transport.is_closing()
    size = transport.get_write_buffer_size()
    transport.write(b"too late")
    assert transport.get_write_buffer_size() == size
    assert await drain(loop, reader, len(written)) == written
    assert await protocol.lost is None
    assert protocol.size == 0
    assert reader.read(10) == b""


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.differs("asyncio watches the descriptor after the end", run=False)
async def test_nothing_is_watched_that_ended_in_the_first_call(loop, opened, end):
    class Brief(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            getattr(transport, end)()

    _, writer = opened("pipe")
    number = writer.fileno()
    _, protocol = await loop.connect_write_pipe(Brief, writer)
    assert await protocol.lost is None
    assert not loop.remove_reader(number)


async def test_close_goes_through_write_eof(loop, opened):
    _, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    called = []
    transport.write_eof = lambda: called.append("write_eof")
    transport.close()
    assert called == ["write_eof"]
    assert not transport.is_closing()
    transport.abort()
    await protocol.lost


@pytest.mark.parametrize("first", ["close", "write_eof", "abort"])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.differs("asyncio ends it twice", run=False)
async def test_abort_at_any_time_is_harmless(loop, opened, reports, first, waits):
    _, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    if waits:
        fill(transport)
    getattr(transport, first)()
    transport.abort()
    assert await protocol.lost is None
    transport.abort()
    await polled(loop)
    assert protocol.calls.count("connection_lost") == 1
    assert not reports


async def test_abort_after_a_close_that_has_to_wait(loop, opened):
    _, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    fill(transport)
    transport.close()
    transport.abort()
    assert await protocol.lost is None
    assert writer.closed


async def test_a_write_that_fails_is_the_end(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    reader.close()
    transport.write(b"x")
    assert transport.is_closing()
    assert "connection_lost" not in protocol.calls
    assert isinstance(await protocol.lost, BrokenPipeError)
    assert protocol.calls == ["connection_made", "connection_lost"]
    assert writer.closed


async def test_a_write_that_failed_counts_as_one_after_the_end(loop, opened, caplog):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    reader.close()
    for _ in range(5):
        transport.write(b"x")
    assert caplog.records == []
    transport.write(b"x")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.name == "asyncio"
    assert record.getMessage() == "pipe closed by peer or os.write(pipe, data) raised exception."
    await protocol.lost


async def test_empty_writes_after_the_end_do_not_count(loop, opened, caplog):
    _, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    transport.close()
    for _ in range(5):
        transport.write(b"x")
        transport.write(b"")
    await protocol.lost
    for _ in range(10):
        transport.write(b"")
    assert caplog.records == []


async def test_a_late_write_that_fails_is_the_end(loop, opened):
    """A socket, whose writer the poller would tell of a hang-up first, is reset."""
    reader, writer = opened("tcp")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    fill(transport)
    reader.close()  # with unread data: a reset
    assert isinstance(await protocol.lost, (BrokenPipeError, ConnectionResetError))
    assert protocol.calls.count("connection_lost") == 1
    assert transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_the_reader_goes_before_it_has_read_all(loop, opened, end):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    fill(transport)
    getattr(transport, end)()
    await polled(loop)
    assert "connection_lost" not in protocol.calls
    reader.close()
    assert isinstance(await protocol.lost, BrokenPipeError)


async def test_what_a_socket_receives_ends_its_writer(loop, opened):
    """asyncio's way to notice that the other end is gone cannot tell the one from the other."""
    reader, writer = opened("unix")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    os.write(reader.fileno(), b"an answer")
    assert await protocol.lost is None
    assert transport.is_closing()


async def test_a_terminal_is_not_asked_for_hang_ups(loop, opened):
    reader, writer = opened("terminal")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    os.write(reader.fileno(), b"typed")
    await polled(loop)
    assert not transport.is_closing()
    transport.write(b"out")
    await until_readable(loop, reader)
    assert reader.read(10) == b"out"
    transport.close()
    assert await protocol.lost is None


def test_what_must_wait_needs_an_open_loop(new_loop, opened):
    loop = new_loop()
    reader, writer = opened("pipe")

    async def connect():
        return await loop.connect_write_pipe(Recorder, writer)

    transport, protocol = loop.run_until_complete(connect())
    loop.close()
    transport.write(b"at once")
    assert reader.read(100) == b"at once"
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        fill(transport)
    assert transport.get_write_buffer_size() == 0
    assert not transport.is_closing()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        protocol.transport = protocol.made = None
        del transport


async def test_a_stream_writer_drains(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, writer)
    stream = asyncio.StreamWriter(transport, protocol, None, loop)
    payload = os.urandom(300_000)
    stream.write(payload)
    draining = loop.create_task(stream.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    assert await drain(loop, reader, len(payload)) == payload
    await draining
    stream.close()
    assert stream.is_closing()
    await polled(loop)
    assert writer.closed
