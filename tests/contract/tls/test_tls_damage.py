"""What a broken or hostile peer may send: records that were changed, cut, repeated, swapped, left out or made up.

Whatever comes, the connection ends or goes on: nothing hangs, nothing wrong is delivered, nobody is told of what is
no fault of this side, and afterwards everything is gone. The choices follow from the seeds; what TLS puts into the
records does not.
"""

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import weakref

import pytest
from checker import Recorder, polled
from support import gone
from tls_checker import TlsPeer, Wire

CASES = 40  # connections for each seed
SEEDS = range(6)


def split(data):
    """The records that `data` consists of; the last may be incomplete."""
    records = []
    while data:
        size = 5 + int.from_bytes(data[3:5], "big") if len(data) >= 5 else len(data)
        records.append(data[:size])
        data = data[size:]
    return records


class Damage:
    """Changes what goes through it, at most `limit` times."""

    def __init__(self, numbers, limit):
        self.numbers = numbers
        self.left = limit
        self.seen = []

    def apply(self, data):
        records = split(data)
        self.seen += records
        if self.left and self.numbers.random() < 0.4:
            self.left -= 1
            getattr(self, self.numbers.choice(self.KINDS))(records)
        return b"".join(records)

    def flip_anywhere(self, records):
        self._change(records, lambda record: self.numbers.randrange(len(record)))

    def flip_in_header(self, records):
        self._change(records, lambda record: self.numbers.randrange(min(5, len(record))))

    def flip_in_message(self, records):
        """The type and the length of a message of the handshake."""
        self._change(records, lambda record: min(len(record) - 1, 5 + self.numbers.randrange(6)))

    def _change(self, records, position):
        index = self.numbers.randrange(len(records))
        record = bytearray(records[index])
        record[position(record)] ^= 1 << self.numbers.randrange(8)
        records[index] = bytes(record)

    def cut(self, records):
        """And the rest is lost."""
        index = self.numbers.randrange(len(records))
        records[index] = records[index][: self.numbers.randrange(len(records[index]))]

    def cut_honestly(self, records):
        """The header says so."""
        index = self.numbers.randrange(len(records))
        body = records[index][5:]
        body = body[: self.numbers.randrange(len(body) + 1)]
        records[index] = records[index][:3] + len(body).to_bytes(2, "big") + body

    def repeat(self, records):
        index = self.numbers.randrange(len(records))
        records[index:index] = [records[index]] * self.numbers.choice((1, 2, 50))

    def replay(self, records):
        records.insert(self.numbers.randrange(len(records) + 1), self.numbers.choice(self.seen))

    def swap(self, records):
        self.numbers.shuffle(records)

    def leave_out(self, records):
        del records[self.numbers.randrange(len(records))]

    def make_up(self, records):
        """A record of some kind with anything in it."""
        body = self.numbers.randbytes(self.numbers.choice((0, 1, 2, 5, 100, 16384, 16385, 20_000)))
        kind = self.numbers.choice((20, 21, 22, 23, 24, 0, 255))
        record = struct.pack("!BHH", kind, self.numbers.choice((0x0301, 0x0303, 0x0304, 0xFFFF)), len(body)) + body
        records.insert(self.numbers.randrange(len(records) + 1), record)

    def garbage(self, records):
        records.append(self.numbers.randbytes(self.numbers.choice((1, 3, 5, 1000))))

    def alert(self, records):
        level, description = self.numbers.choice((1, 2, 3)), self.numbers.choice((0, 10, 40, 90, 100, 255))
        records.append(struct.pack("!BHHBB", 21, 0x0303, 2, level, description))

    KINDS = (
        "flip_anywhere",
        "flip_in_header",
        "flip_in_message",
        "cut",
        "cut_honestly",
        "repeat",
        "replay",
        "swap",
        "leave_out",
        "make_up",
        "garbage",
        "alert",
    )


class DamagedWire(Wire):
    """Sends what was damaged, in packets of any size."""

    def __init__(self, loop, sock, damage):
        super().__init__(loop, sock)
        self.damage = damage

    async def send(self, data):
        data = self.damage.apply(data)
        numbers = self.damage.numbers
        while data:
            size = numbers.choice((1, 5, 6, 100, 5000, 100_000))
            await super().send(data[:size])
            data = data[size:]


class Fickle(Recorder):
    """Does what its random numbers say, as programs do."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = numbers

    def connection_made(self, transport):
        super().connection_made(transport)
        self.act()

    def data_received(self, data):
        super().data_received(data)
        self.act()

    def act(self):
        transport, loop = self.transport, asyncio.get_running_loop()
        match self.numbers.randrange(12):
            case 0 | 1 | 2:
                transport.write(self.numbers.randbytes(self.numbers.choice((1, 100, 20_000, 200_000))))
            case 3:
                transport.writelines([b"one", b"two"])
            case 4:
                transport.pause_reading()
                loop.call_soon(transport.resume_reading)
            case 5 if self.data:
                transport.close()
            case 6 if self.data:
                transport.abort()


async def converse(peer, sent, numbers):
    """Shake hands, and send and receive some."""
    await peer.handshake()
    for _ in range(numbers.randrange(1, 6)):
        data = numbers.randbytes(numbers.choice((1, 100, 17_000)))
        sent += data
        await peer.send(data)
        if numbers.randrange(4) == 0:
            await peer.receive()
    if numbers.randrange(2):
        await peer.unwrap()


async def meet(loop, certificates, numbers, side, version, limit):
    """One connection with a damaged peer: weak references of what must be gone."""
    server_context, client_context = certificates.server_context(), certificates.client_context()
    server_context.maximum_version = version
    protocol = Fickle(numbers)
    one, other = socket.socketpair()
    other.setblocking(False)
    wire = DamagedWire(loop, other, Damage(numbers, limit))
    if side == "server":
        peer = TlsPeer(wire, client_context, server_hostname="localhost")
        connecting = loop.connect_accepted_socket(lambda: protocol, one, ssl=server_context)
    else:
        peer = TlsPeer(wire, server_context, server_side=True)
        connecting = loop.create_connection(
            lambda: protocol, sock=one, ssl=client_context, server_hostname="localhost"
        )
    sent = bytearray()
    connecting = loop.create_task(connecting)
    conversation = loop.create_task(converse(peer, sent, numbers))
    for _ in range(8):
        await polled(loop)
        if conversation.done():
            break
    # Both may wait for what was lost.
    conversation.cancel()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await conversation
    if numbers.randrange(2):
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)
        await polled(loop)
    other.close()
    transport = None
    try:
        transport, _ = await connecting
    except OSError:
        assert protocol.calls == []
    else:
        exc = await protocol.lost
        assert exc is None or isinstance(exc, OSError)
        assert protocol.calls[0] == "connection_made"
        assert protocol.calls.count("connection_lost") == 1
        assert sent.startswith(protocol.data)
    await polled(loop)
    assert one.fileno() == -1
    watched = [weakref.ref(protocol)]
    if transport is not None:
        watched.append(weakref.ref(transport))
    return watched


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_no_damage_does_harm(loop, certificates, reports, seed, side, version):
    watched = []
    for case in range(CASES):
        numbers = random.Random(f"{seed}/{case}/{side}")
        watched += await meet(loop, certificates, numbers, side, version, limit=numbers.choice((1, 1, 1, 2, 5)))
        assert reports == [], f"case {case}"
    assert gone(*watched)


@pytest.mark.parametrize("side", ["client", "server"])
async def test_without_damage_there_is_none(loop, certificates, side):
    """So that the others show something: the same conversations get to their end."""
    for case in range(CASES // 2):
        numbers = random.Random(f"{case}/{side}")
        await meet(loop, certificates, numbers, side, ssl.TLSVersion.TLSv1_3, limit=0)


@pytest.mark.parametrize("size", [0, 1, 2, 4, 5, 6, 50, 100])
async def test_a_hello_that_is_cut_anywhere_is_an_error(loop, certificates, size):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    one, other = socket.socketpair()
    with other:
        other.send(outgoing.read()[:size])
        other.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            await loop.connect_accepted_socket(Recorder, one, ssl=certificates.server_context())
    await polled(loop)


async def test_a_hello_that_was_recorded_is_answered_but_gets_no_further(loop, certificates):
    """Its sender does not know the secret any more."""
    recorded = []

    class Recording(Wire):
        async def send(self, data):
            recorded.append(data)
            await super().send(data)

    for attempt in range(2):
        one, other = socket.socketpair()
        other.setblocking(False)
        protocol = Recorder()
        accepting = loop.create_task(
            loop.connect_accepted_socket([protocol].pop, one, ssl=certificates.server_context())
        )
        if attempt == 0:
            peer = TlsPeer(Recording(loop, other), certificates.client_context(), server_hostname="localhost")
            await peer.handshake()
            await peer.send(b"pay 100")
            await accepting
            assert await protocol.received(7) == b"pay 100"
            await peer.unwrap()
            await protocol.lost
        else:
            for data in recorded:
                with contextlib.suppress(OSError):
                    await loop.sock_sendall(other, data)
            with pytest.raises(ssl.SSLError):
                await accepting
            assert protocol.data == b""
            assert protocol.calls == []
        other.close()
        await polled(loop)
