"""What pipes have done with is gone: transports, protocols, pipe objects and what they wrote."""

import asyncio
import gc
import os
import sys
import weakref

import pytest
from support import COUNTS_NATIVE_BYTES, gone, native_bytes, open_fds, warning_texts

ROUNDS = 12  # the first ones fill caches
PIPES = 60


@pytest.fixture
def loop(new_loop):
    loop = new_loop()
    yield loop
    if not loop.is_closed():
        loop.close()


class Keeper(asyncio.Protocol):
    """Keeps its transport, as most protocols do, and so makes a cycle."""

    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()
        self.data = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class Failing(Keeper):
    def data_received(self, data):
        raise ZeroDivisionError


def pipe():
    read, write = os.pipe()
    return os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)


async def connected(loop, protocol_class=Keeper):
    reader, writer = pipe()
    reading, received = await loop.connect_read_pipe(protocol_class, reader)
    writing, sender = await loop.connect_write_pipe(Keeper, writer)
    return reading, received, writing, sender


# --- one pipe's life, in several ways -------------------------------------------------------------


async def closed(loop):
    reading, received, writing, sender = await connected(loop)
    writing.write(b"hello")
    writing.close()
    await asyncio.gather(received.lost, sender.lost)
    return reading, received, writing, sender


async def closed_with_much_to_write(loop):
    reading, received, writing, sender = await connected(loop)
    reading.pause_reading()
    writing.write(bytearray(100_000))
    writing.write(bytes(1000))
    writing.close()
    reading.resume_reading()
    await asyncio.gather(received.lost, sender.lost)
    assert len(received.data) == 101_000
    return reading, received, writing, sender


async def aborted(loop):
    reading, received, writing, sender = await connected(loop)
    reading.pause_reading()
    writing.write(bytes(100_000))
    writing.abort()
    reading.close()
    await asyncio.gather(received.lost, sender.lost)
    return reading, received, writing, sender


async def left_by_its_reader(loop):
    reading, received, writing, sender = await connected(loop)
    reading.pause_reading()
    writing.write(bytes(100_000))
    reading.close()
    assert isinstance(await sender.lost, BrokenPipeError)
    await received.lost
    return reading, received, writing, sender


async def read_by_a_protocol_that_fails(loop):
    failed = []
    loop.set_exception_handler(lambda loop, context: failed.append(str(context)))
    reading, received, writing, sender = await connected(loop, Failing)
    writing.write(b"x")
    while not failed:
        await asyncio.sleep(0)
    writing.close()
    await asyncio.gather(received.lost, sender.lost)
    return reading, received, writing, sender


async def read_by_a_stream(loop):
    reader, writer = pipe()
    stream = asyncio.StreamReader()
    reading, received = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), reader)
    writing, sender = await loop.connect_write_pipe(Keeper, writer)
    writing.write(b"hello")
    writing.close()
    assert await stream.read() == b"hello"
    await sender.lost
    return reading, received, stream, writing, sender


async def handed_on(loop):
    """To another protocol, and its reader to the program."""
    reading, received, writing, sender = await connected(loop)
    second = Keeper()
    reading.set_protocol(second)
    descriptor = reading.get_extra_info("pipe").fileno()
    loop.add_reader(descriptor, second.data_received, reading)
    loop.remove_reader(descriptor)
    reading.close()
    writing.close()
    await asyncio.gather(second.lost, sender.lost)
    return reading, received, second, writing, sender


async def of_a_child(loop):
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    await child.communicate(b"hello")
    return (child,)


LIVES = [
    closed,
    closed_with_much_to_write,
    aborted,
    left_by_its_reader,
    read_by_a_protocol_that_fails,
    read_by_a_stream,
    handed_on,
]


@pytest.mark.parametrize("life", [*LIVES, of_a_child])
def test_everything_is_freed_of_a_pipe_that_is(loop, life):
    async def main():
        return [weakref.ref(each) for each in await life(loop)]

    watched = loop.run_until_complete(main())
    loop.run_until_complete(asyncio.sleep(0))
    assert gone(*watched)


# Without children: it takes thousands of them to fill the caches of all that starts one.
@pytest.mark.parametrize("life", LIVES)
def test_nothing_grows_with_pipes_that_are(loop, life):
    async def main():
        for _ in range(PIPES):
            await life(loop)

    allowed = {sys.getallocatedblocks: PIPES // 4}
    if COUNTS_NATIVE_BYTES:
        allowed[native_bytes] = PIPES * 50
    if hasattr(sys, "gettotalrefcount"):
        allowed[sys.gettotalrefcount] = PIPES // 4
    readings = []
    descriptors = set()
    for _ in range(ROUNDS):
        loop.run_until_complete(main())
        gc.collect()
        readings.append([metric() for metric in allowed])
        descriptors.add(len(open_fds()))
    assert len(descriptors) == 1
    for metric, values in zip(allowed, zip(*readings, strict=True), strict=True):
        growth = min(later - earlier for earlier, later in zip(values, values[1:], strict=False))
        assert growth < allowed[metric], f"{metric.__name__}: {values}"


# --- cycles, and loops that are gone --------------------------------------------------------------


@pytest.mark.parametrize("of", ["reading", "writing"])
def test_an_open_pipe_of_a_closed_loop_is_freed_with_a_warning(new_loop, of):
    before = open_fds()
    loop = new_loop()
    reader, writer = pipe()
    ours, other = (reader, writer) if of == "reading" else (writer, reader)

    async def main(connect):
        transport, protocol = await connect(Keeper, ours)
        if of == "writing":
            transport.write(bytes(100_000))
        return transport, protocol

    connect = loop.connect_read_pipe if of == "reading" else loop.connect_write_pipe
    transport, protocol = loop.run_until_complete(main(connect))
    loop.close()
    watched = weakref.ref(transport), weakref.ref(protocol), weakref.ref(loop)
    with warning_texts() as texts:
        del transport, protocol, connect, loop
        assert gone(*watched)
    assert any("unclosed transport" in text for text in texts)
    assert ours.closed
    other.close()
    assert open_fds() == before


def test_a_cycle_through_all_that_a_transport_holds_is_freed(loop):
    async def main():
        reading, received, writing, sender = await connected(loop)
        reading.pause_reading()
        writing.write(bytes(100_000))
        pipes = [each.get_extra_info("pipe") for each in (reading, writing)]
        for transport, file in zip((reading, writing), pipes, strict=True):
            transport.itself = transport  # by its attributes,
            file.transport = transport  # and by the pipe
            loop.remove_reader(file.fileno())
            loop.remove_writer(file.fileno())
        return [weakref.ref(each) for each in (reading, received, writing, sender, *pipes)]

    with warning_texts() as texts:
        watched = loop.run_until_complete(main())
        loop.run_until_complete(asyncio.sleep(0))
        assert gone(*watched)
    assert len([text for text in texts if "unclosed transport" in text]) == 2


def test_a_transport_that_is_watched_keeps_itself(loop):
    async def main():
        reading, received, writing, sender = await connected(loop)
        watched = [weakref.ref(reading), weakref.ref(writing)]
        writing.write(b"hello")
        del reading, writing, received.transport, sender.transport
        gc.collect()
        assert None not in [reference() for reference in watched]
        while received.data != b"hello":
            await asyncio.sleep(0)
        for reference in watched:
            reference().close()
        await asyncio.gather(received.lost, sender.lost)

    loop.run_until_complete(main())
