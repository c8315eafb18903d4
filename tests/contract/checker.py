"""Protocols that write down what happens to them, and streams of every kind to try them on."""

import asyncio
import hashlib
import itertools
import socket

STREAM_KINDS = ("tcp", "accepted", "unix")
LARGE = bytes(itertools.islice(itertools.cycle(hashlib.sha256(b"velodrome").digest()), 8 << 20))
SMALL_BUFFER = 16384  # what the peer's kernel holds where a test has to fill it


class Recorder(asyncio.Protocol):
    """Writes down each call; `until` awaits what has to happen, so that no test sleeps."""

    def __init__(self):
        self.calls = []
        self.data = bytearray()
        self.transport = None
        self.exception = None
        self.changed = asyncio.Event()
        self.made = asyncio.get_running_loop().create_future()
        self.lost = asyncio.get_running_loop().create_future()

    def note(self, call):
        self.calls.append(call)
        self.changed.set()

    async def until(self, condition):
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def called(self, call):
        await self.until(lambda: call in self.calls)

    async def received(self, count):
        """The first `count` bytes that came in, once they are here."""
        await self.until(lambda: len(self.data) >= count)
        return bytes(self.data[:count])

    def connection_made(self, transport):
        self.transport = transport
        self.note("connection_made")
        self.made.set_result(transport)

    def connection_lost(self, exc):
        self.exception = exc
        self.note("connection_lost")
        self.lost.set_result(exc)

    def data_received(self, data):
        self.data += data
        self.note("data_received")

    def eof_received(self):
        self.note("eof_received")

    def pause_writing(self):
        self.note("pause_writing")

    def resume_writing(self):
        self.note("resume_writing")


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same for a BufferedProtocol with a buffer of `size` bytes."""

    data_received = None

    def __init__(self, size=4096):
        super().__init__()
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.data += memoryview(self.buffer)[:count]
        self.note("buffer_updated")


class Pieces(Recorder):
    """Keeps what came at a time."""

    def __init__(self):
        super().__init__()
        self.pieces = []

    def data_received(self, data):
        assert type(data) is bytes
        assert 0 < len(data) <= 262_144
        self.pieces.append(data)
        super().data_received(data)


class EofKeeper(Recorder):
    """Stays open, to write, after the peer has finished."""

    def eof_received(self):
        super().eof_received()
        return True


class Wayward(Recorder):
    """Reads, pauses, changes its protocol and writes as its random numbers say; keeps what went each way."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = numbers
        self.written = bytearray()

    def misbehave(self):
        transport, numbers = self.transport, self.numbers
        for _ in range(numbers.randrange(4)):
            data = numbers.randbytes(numbers.choice((0, 1, 10, 1000, 70_000)))
            self.written += data
            match numbers.randrange(4):
                case 0:
                    transport.write(bytearray(data))
                case 1:
                    transport.writelines([piece for piece in (data[:5], memoryview(data)[5:]) if piece])
                case _:
                    transport.write(data)
        if numbers.randrange(3) == 0:
            transport.pause_reading()
            asyncio.get_running_loop().call_later(numbers.random() / 1000, transport.resume_reading)
        if numbers.randrange(3) == 0:
            transport.set_protocol(self.buffered if transport.get_protocol() is self else self)

    def connection_made(self, transport):
        super().connection_made(transport)
        self.buffered = BufferedSide(self, self.numbers.choice((1, 100, 70_000)))

    def data_received(self, data):
        super().data_received(data)
        self.misbehave()


class BufferedSide(asyncio.BufferedProtocol):
    """The same protocol, reading into a buffer."""

    def __init__(self, plain, size):
        self.plain = plain
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint):
        return memoryview(self.buffer)  # asyncio's TLS fills parts of it, and parts of a bytearray are copies

    def buffer_updated(self, count):
        self.plain.data_received(bytes(self.buffer[:count]))

    def connection_lost(self, exc):
        self.plain.connection_lost(exc)

    def eof_received(self):
        return self.plain.eof_received()

    def pause_writing(self):
        self.plain.pause_writing()

    def resume_writing(self):
        self.plain.resume_writing()


async def connect_stream(loop, kind, protocol, receive_buffer=None):
    """Open a stream of `kind`: (transport, protocol, the peer's non-blocking socket)."""
    if kind == "unix":
        ours, peer = socket.socketpair()
        peer.setblocking(False)
        if receive_buffer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        return transport, protocol, peer

    if kind == "accepted":
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        peer = socket.socket()
        peer.setblocking(False)
        if receive_buffer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await loop.sock_connect(peer, server.sockets[0].getsockname())
        transport = await protocol.made
        server.close()
        return transport, protocol, peer

    with socket.create_server(("127.0.0.1", 0)) as listener:
        if receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        transport, _ = await loop.create_connection(lambda: protocol, *listener.getsockname())
        peer, _ = listener.accept()
    peer.setblocking(False)
    return transport, protocol, peer


async def receive_exactly(loop, sock, count):
    data = bytearray()
    while len(data) < count:
        chunk = await loop.sock_recv(sock, min(count - len(data), 1 << 20))
        assert chunk, f"end of stream after {len(data)} of {count} bytes"
        data += chunk
    return bytes(data)


async def receive_all(loop, sock):
    """Everything up to the end of the stream."""
    data = bytearray()
    while chunk := await loop.sock_recv(sock, 1 << 20):
        data += chunk
    return bytes(data)


async def polled(loop):
    """Return after the loop has asked for input twice: what was readable before has been dealt with."""
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        for _ in range(2):
            readable = loop.create_future()

            def read(readable=readable):
                one.recv(1)
                loop.remove_reader(one)
                readable.set_result(None)

            loop.add_reader(one, read)
            other.send(b"x")
            await readable


def fill(transport):
    """Write until the kernel takes no more; returns what was written."""
    chunk = bytes(range(256)) * 256
    written = bytearray()
    while transport.get_write_buffer_size() == 0:
        transport.write(chunk)
        written += chunk
    return bytes(written)
