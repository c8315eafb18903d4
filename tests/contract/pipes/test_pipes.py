"""connect_read_pipe and connect_write_pipe: pipes, FIFOs, sockets and terminals."""

import asyncio
import fcntl
import gc
import os

import pytest
from checker import EofKeeper, Recorder, fill, polled
from pipe_checker import KINDS, until_readable
from support import run_child

# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_written_is_read(loop, opened, kind):
    reader, writer = opened(kind)
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    assert protocol.calls == ["connection_made"]
    assert protocol.transport is transport
    for piece in (b"one", b"two", b"three"):
        before = len(protocol.data)
        writer.write(piece)
        await protocol.received(before + len(piece))
    assert bytes(protocol.data) == b"onetwothree"
    transport.close()
    assert await protocol.lost is None
    assert reader.closed


@pytest.mark.parametrize("kind", ["pipe", "fifo", "unix", "tcp"])
@pytest.mark.parametrize("protocol_class", [Recorder, EofKeeper])
async def test_the_end_of_the_writer_is_the_end(loop, opened, kind, protocol_class):
    reader, writer = opened(kind)
    transport, protocol = await loop.connect_read_pipe(protocol_class, reader)
    writer.write(b"the last")
    writer.close()
    assert await protocol.lost is None
    assert bytes(protocol.data) == b"the last"
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert reader.closed
    assert transport.is_closing()


async def test_a_terminal_that_hangs_up_is_an_error_of_the_system(loop, opened):
    reader, writer = opened("terminal")
    _, protocol = await loop.connect_read_pipe(Recorder, reader)
    writer.close()
    assert isinstance(await protocol.lost, OSError)
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_a_million_bytes_arrive_in_order(loop, opened):
    reader, writer = opened("pipe")
    _, received = await loop.connect_read_pipe(Recorder, reader)
    transport, _ = await loop.connect_write_pipe(Recorder, writer)
    payload = bytes(range(251)) * 4000
    for start in range(0, len(payload), 40_000):
        transport.write(payload[start : start + 40_000])
    transport.close()
    assert await received.lost is None
    assert bytes(received.data) == payload


async def test_reading_can_be_paused(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    assert transport.is_reading()
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    writer.write(b"later")
    await polled(loop)
    assert not protocol.data
    transport.resume_reading()
    transport.resume_reading()
    assert transport.is_reading()
    assert await protocol.received(5) == b"later"
    transport.close()
    assert not transport.is_reading()
    await protocol.lost


async def test_a_pause_in_the_first_call_holds(loop, opened):
    class Paused(Recorder):
        def connection_made(self, transport):
            transport.pause_reading()
            super().connection_made(transport)

    reader, writer = opened("pipe")
    writer.write(b"early")
    transport, protocol = await loop.connect_read_pipe(Paused, reader)
    await polled(loop)
    assert not protocol.data
    transport.resume_reading()
    assert await protocol.received(5) == b"early"
    transport.close()
    await protocol.lost


async def test_nothing_is_delivered_after_close(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    writer.write(b"too late")
    transport.close()
    transport.close()
    assert transport.is_closing()
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_another_protocol_can_take_over(loop, opened):
    reader, writer = opened("pipe")
    transport, first = await loop.connect_read_pipe(Recorder, reader)
    second = Recorder()
    transport.set_protocol(second)
    assert transport.get_protocol() is second
    writer.write(b"for the second")
    assert await second.received(14) == b"for the second"
    assert not first.data
    transport.close()
    await second.lost
    assert not first.lost.done()


async def test_a_stream_reader_reads_a_pipe(loop, opened):
    reader, writer = opened("pipe")
    stream = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), reader)
    writer.write(b"a line\nthe rest")
    assert await stream.readline() == b"a line\n"
    writer.close()
    assert await stream.read() == b"the rest"


async def test_what_the_protocol_raises_is_reported(loop, opened, reports):
    class Failing(Recorder):
        def data_received(self, data):
            raise ZeroDivisionError

    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Failing, reader)
    writer.write(b"x")
    while not reports:
        await asyncio.sleep(0)
    assert isinstance(reports.take()["exception"], ZeroDivisionError)
    assert not transport.is_closing()
    transport.close()
    await protocol.lost


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kind_of_bytes", [bytes, bytearray, memoryview])
async def test_what_is_written_goes_out_at_once(loop, opened, kind, kind_of_bytes):
    reader, writer = opened(kind)
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    transport.write(kind_of_bytes(b"at once"))
    transport.write(kind_of_bytes(b""))
    await until_readable(loop, reader)
    assert reader.read(100) == b"at once"
    assert transport.get_write_buffer_size() == 0
    transport.close()
    assert await protocol.lost is None
    assert writer.closed


@pytest.mark.parametrize("kind", ["pipe", "fifo", "unix", "tcp"])
async def test_the_writer_learns_at_once_that_the_reader_is_gone(loop, opened, kind):
    reader, writer = opened(kind)
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    reader.close()
    assert await protocol.lost is None
    assert transport.is_closing()
    assert writer.closed


async def test_what_nobody_will_read_is_a_broken_pipe(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    fill(transport)
    reader.close()
    assert isinstance(await protocol.lost, BrokenPipeError)


async def test_flow_control(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    transport.set_write_buffer_limits(high=100_000, low=10)
    written = fill(transport)
    while "pause_writing" not in protocol.calls:
        transport.write(b"more")
        written += b"more"
    assert transport.get_write_buffer_size() > 100_000
    os.set_blocking(reader.fileno(), False)
    got = b""
    while len(got) < len(written):
        await until_readable(loop, reader)
        got += reader.read(1 << 20)
    assert got == written
    await protocol.called("resume_writing")
    assert transport.get_write_buffer_size() == 0
    transport.close()
    await protocol.lost


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_the_end_waits_for_what_is_written(loop, opened, end):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    assert transport.can_write_eof()
    written = fill(transport)
    getattr(transport, end)()
    getattr(transport, end)()
    assert transport.is_closing()
    got = b""
    while len(got) < len(written):
        await until_readable(loop, reader)
        got += reader.read(1 << 16)
    assert got == written
    assert await protocol.lost is None
    assert reader.read(1) == b""


async def test_abort_drops_what_is_written(loop, opened):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    written = fill(transport)
    transport.abort()
    assert await protocol.lost is None
    got = b""
    while piece := reader.read(1 << 20):
        got += piece
    assert len(got) < len(written)
    assert written.startswith(got)


async def test_writing_after_the_end_is_counted_and_logged(loop, opened, caplog):
    reader, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    reader.close()
    await protocol.lost
    for _ in range(4):
        transport.write(b"nobody hears")
    assert caplog.records == []
    for _ in range(2):
        transport.write(b"nobody hears")
    assert {record.getMessage() for record in caplog.records} == {
        "pipe closed by peer or os.write(pipe, data) raised exception."
    }


@pytest.mark.parametrize("what", ["text", 3, None, [b"list"]])
async def test_only_bytes_are_written(loop, opened, what):
    _, writer = opened("pipe")
    transport, protocol = await loop.connect_write_pipe(Recorder, writer)
    with pytest.raises((TypeError, AssertionError)):
        transport.write(what)
    transport.close()
    await protocol.lost


# --- the descriptor -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["connect_read_pipe", "connect_write_pipe"])
async def test_a_regular_file_is_none(loop, method, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    made = []
    with open(path, "r+b", 0) as file:
        with pytest.raises(ValueError, match="Pipe transport is") as caught:
            await getattr(loop, method)(lambda: made.append(Recorder()) or made[0], file)
        assert "pipes" in str(caught.value)
        assert "sockets" in str(caught.value)
        assert not file.closed
        assert file.read() == b"content"
    assert made[0].calls == []


async def test_the_descriptor_does_not_block_and_the_file_stays_the_users(loop, opened):
    reader, writer = opened("pipe")
    twin = os.dup(reader.fileno())
    try:
        transport, protocol = await loop.connect_read_pipe(Recorder, reader)
        assert not os.get_blocking(reader.fileno())
        assert not os.get_blocking(twin)  # the flag belongs to what both are open on
        assert os.get_blocking(writer.fileno())
        assert transport.get_extra_info("pipe") is reader
        assert transport.get_extra_info("nothing", "default") == "default"
        transport.close()
        await protocol.lost
        writer.write(b"for the twin")
        assert os.read(twin, 100) == b"for the twin"
        assert not os.get_blocking(twin)
    finally:
        os.close(twin)


async def test_pipes_stay_out_of_children(loop, opened):
    reader, _ = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    assert fcntl.fcntl(reader, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    transport.close()
    await protocol.lost


async def test_a_device_that_cannot_be_watched_is_written(loop):
    with open("/dev/null", "wb", 0) as null:
        transport, protocol = await loop.connect_write_pipe(Recorder, null)
        transport.write(b"to nobody")
        assert transport.get_write_buffer_size() == 0
        transport.close()
        assert await protocol.lost is None


async def test_a_device_that_cannot_be_watched_is_not_read(loop, reports):
    with open("/dev/null", "rb", 0) as null:
        transport, protocol = await loop.connect_read_pipe(Recorder, null)
        assert isinstance(reports.take()["exception"], PermissionError)
        assert not protocol.data
        transport.close()
        assert await protocol.lost is None


async def test_a_pipe_that_nobody_closed(loop, opened):
    reader, _ = opened("pipe")
    transport, protocol = await loop.connect_read_pipe(Recorder, reader)
    transport.pause_reading()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        protocol.transport = protocol.made = transport = None
        gc.collect()
    assert reader.closed


async def test_one_loop_many_pipes(loop):
    async def echo(number):
        read, write = os.pipe()
        with os.fdopen(read, "rb", 0) as reader, os.fdopen(write, "wb", 0) as writer:
            _, received = await loop.connect_read_pipe(Recorder, reader)
            transport, _ = await loop.connect_write_pipe(Recorder, writer)
            for _ in range(10):
                transport.write(number.to_bytes(4, "big"))
                await asyncio.sleep(0)
            transport.close()
            await received.lost
            assert bytes(received.data) == number.to_bytes(4, "big") * 10

    await asyncio.gather(*map(echo, range(100)))


# --- the standard streams -------------------------------------------------------------------------

ECHO = """
import asyncio, sys
async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    for stream in (sys.stdout, sys.stderr):
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, stream)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        writer.write(b"ready\\n")
        await writer.drain()
        if stream is sys.stdout:
            async for line in reader:
                writer.write(line.upper())
                await writer.drain()
        writer.close()
loop = new_event_loop()
loop.run_until_complete(main())
loop.run_until_complete(asyncio.sleep(0))
loop.close()
"""


@pytest.mark.parametrize("kind", ["pipe", "unix"])
def test_the_standard_streams_of_a_process(loop_name, opened, kind):
    reader, writer = opened(kind)
    writer.write(b"first\nsecond\n")
    writer.close()
    child = run_child(loop_name, ECHO, stdin=reader)
    assert child.stdout == "ready\nFIRST\nSECOND\n"
    assert child.stderr == "ready\n"


def test_the_standard_streams_may_be_a_terminal(loop_name, opened):
    terminal, process_side = opened("terminal")
    code = """
    import asyncio, sys
    class Once(asyncio.Protocol):
        def data_received(self, data):
            received.set_result(data)
    loop = new_event_loop()
    received = loop.create_future()
    transport, _ = loop.run_until_complete(loop.connect_read_pipe(Once, sys.stdin))
    print(loop.run_until_complete(received))
    transport.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    """
    terminal_writer = os.fdopen(os.dup(terminal.fileno()), "wb", 0)
    with terminal_writer:
        terminal_writer.write(b"typed")
        assert run_child(loop_name, code, stdin=process_side).stdout == "b'typed'\n"


def test_standard_input_from_a_file_is_refused(loop_name, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    code = """
    import asyncio, sys
    loop = new_event_loop()
    try:
        loop.run_until_complete(loop.connect_read_pipe(asyncio.Protocol, sys.stdin))
    except ValueError as error:
        print(error)
    loop.close()
    """
    with open(tmp_path / "file", "rb") as file:
        child = run_child(loop_name, code, stdin=file)
    assert child.stdout == "Pipe transport is for pipes/sockets only.\n"
