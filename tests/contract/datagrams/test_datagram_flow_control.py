"""Datagrams that the socket does not take at once: they wait, in order, and the protocol is told."""

import array
import asyncio
import collections
import contextlib
import errno
import itertools
import random
import socket

import pytest
from datagram_checker import (
    ABSTRACT,
    HEADER,
    SIZE,
    Blocked,
    Datagrams,
    Text,
    drained,
    numbered,
    settled,
    with_empty_datagrams,
)


async def test_the_default_limits_are_asyncios(endpoint, nobody):
    transport, _ = await endpoint(remote_addr=nobody)
    assert transport.get_write_buffer_limits() == (16384, 65536)
    assert transport.get_write_buffer_size() == 0


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({}, (16384, 65536)),
        ({"high": 4000}, (1000, 4000)),
        ({"low": 100}, (100, 400)),
        ({"high": 300, "low": 200}, (200, 300)),
        ({"high": 0}, (0, 0)),
        ({"high": 7, "low": 7}, (7, 7)),
    ],
)
async def test_limits_can_be_set(endpoint, nobody, options, limits):
    transport, _ = await endpoint(remote_addr=nobody)
    transport.set_write_buffer_limits(**options)
    assert transport.get_write_buffer_limits() == limits


@pytest.mark.parametrize("options", [{"high": -1}, {"low": -1}, {"high": 10, "low": 11}])
async def test_limits_that_make_no_sense_are_refused(endpoint, nobody, options):
    transport, _ = await endpoint(remote_addr=nobody)
    with pytest.raises(ValueError, match="must be >="):
        transport.set_write_buffer_limits(**options)
    assert transport.get_write_buffer_limits() == (16384, 65536)


async def test_what_the_socket_does_not_take_waits_and_is_counted(blocked):
    it = await blocked()
    assert it.transport.get_write_buffer_size() == SIZE + HEADER
    it.send(4)
    assert it.transport.get_write_buffer_size() == 5 * (SIZE + HEADER)


async def test_what_waits_is_sent_in_order_when_the_peer_reads(loop, blocked):
    it = await blocked()
    it.send(30)
    assert await drained(loop, it.peer, len(it.sent)) == it.sent
    assert it.transport.get_write_buffer_size() == 0
    it.transport.sendto(b"straight", it.address)
    assert it.peer.recv(10) == b"straight"


async def test_nothing_overtakes_what_waits(loop, blocked):
    it = await blocked()
    assert it.peer.recv(SIZE) == it.sent[0]
    # There is room now, but others were first.
    it.send()
    assert it.transport.get_write_buffer_size() == 2 * (SIZE + HEADER)
    assert await drained(loop, it.peer, len(it.sent) - 1) == it.sent[1:]


@with_empty_datagrams
async def test_an_empty_datagram_waits_like_others(loop, blocked):
    it = await blocked()
    it.transport.sendto(b"", it.address)
    assert it.transport.get_write_buffer_size() == SIZE + 2 * HEADER
    it.sent.append(b"")
    it.send()
    assert await drained(loop, it.peer, len(it.sent)) == it.sent


async def test_a_bytearray_changed_after_sendto_does_not_change_what_is_sent(loop, blocked):
    it = await blocked()
    data = bytearray(b"before")
    view = bytearray(b"before")
    it.transport.sendto(data, it.address)
    it.transport.sendto(memoryview(view), it.address)
    data[:] = b"after!"
    data.extend(b"and longer")
    view[:] = b"after!"
    assert (await drained(loop, it.peer, len(it.sent) + 2))[-2:] == [b"before", b"before"]


async def test_a_view_with_gaps_that_has_to_wait_is_sent(loop, blocked):
    it = await blocked()
    it.transport.sendto(memoryview(b"abcdef")[::2], it.address)
    assert not it.transport.is_closing()
    assert (await drained(loop, it.peer, len(it.sent) + 1))[-1] == b"ace"


async def test_a_view_of_numbers_that_has_to_wait_is_sent_as_its_bytes(loop, blocked):
    it = await blocked()
    numbers = array.array("i", range(10))
    it.transport.sendto(memoryview(numbers), it.address)
    assert (await drained(loop, it.peer, len(it.sent) + 1))[-1] == numbers.tobytes()


async def test_pause_writing_is_called_once_inside_the_sendto_that_goes_above_the_limit(blocked):
    it = await blocked(prepare=lambda transport: transport.set_write_buffer_limits(high=4 * (SIZE + HEADER)))
    it.send(3)
    assert it.transport.get_write_buffer_size() == 4 * (SIZE + HEADER)
    assert it.protocol.calls == []
    it.send()
    assert it.protocol.calls == ["pause_writing"]
    it.send(5)
    assert it.protocol.calls == ["pause_writing"]


async def test_resume_writing_is_called_once_when_little_waits(loop, blocked):
    class Protocol(Datagrams):
        def resume_writing(self):
            super().resume_writing()
            sizes.append(self.transport.get_write_buffer_size())

    sizes = []
    it = await blocked(Protocol(), lambda transport: transport.set_write_buffer_limits(high=3000, low=2500))
    it.send(20)
    assert it.protocol.calls == ["pause_writing"]
    assert await drained(loop, it.peer, len(it.sent)) == it.sent
    await settled(loop)
    assert it.protocol.calls == ["pause_writing", "resume_writing"]
    assert sizes[0] <= 2500


async def test_a_limit_of_zero_pauses_on_anything_held_and_resumes_when_empty(loop, blocked):
    it = await blocked()
    it.transport.set_write_buffer_limits(high=0)
    # Setting it is enough.
    assert it.protocol.calls == ["pause_writing"]
    it.send(3)
    assert await drained(loop, it.peer, len(it.sent)) == it.sent
    await it.protocol.called("resume_writing")
    assert it.protocol.calls == ["pause_writing", "resume_writing"]


async def test_writing_pauses_and_resumes_again_and_again(loop, blocked):
    it = await blocked(prepare=lambda transport: transport.set_write_buffer_limits(high=SIZE))
    received = []
    for _ in range(4):
        it.protocol.calls.clear()
        it.send(20)
        received += await drained(loop, it.peer, len(it.sent) - len(received))
        await it.protocol.called("resume_writing")
        assert it.protocol.calls[-2:] == ["pause_writing", "resume_writing"][-len(it.protocol.calls) :]
    assert received == it.sent


async def test_resume_writing_may_send_until_it_is_paused_again(loop, blocked):
    class Protocol(Datagrams):
        paused = False

        def pause_writing(self):
            self.paused = True
            super().pause_writing()

        def resume_writing(self):
            self.paused = False
            super().resume_writing()
            while len(it.sent) < 300 and not self.paused:
                it.send()

    it = await blocked(Protocol(), lambda transport: transport.set_write_buffer_limits(high=5 * SIZE))
    it.send(10)
    assert await drained(loop, it.peer, 300) == it.sent
    assert len(it.sent) == 300


async def test_pause_writing_may_send(loop, blocked):
    class Protocol(Datagrams):
        def pause_writing(self):
            super().pause_writing()
            self.transport.sendto(b"from pause_writing", it.address)

    it = await blocked(Protocol())
    it.transport.set_write_buffer_limits(high=0)
    it.send()
    await it.protocol.called("pause_writing")
    received = await drained(loop, it.peer, len(it.sent) + 1)
    assert received == [*it.sent[:-1], b"from pause_writing", it.sent[-1]]
    assert it.protocol.calls.count("pause_writing") == 1


async def test_the_new_protocol_gets_the_flow_control(loop, blocked):
    it = await blocked()
    new = Datagrams()
    it.transport.set_protocol(new)
    it.transport.set_write_buffer_limits(high=0)
    await drained(loop, it.peer, len(it.sent))
    await new.called("resume_writing")
    assert new.calls == ["pause_writing", "resume_writing"]
    assert it.protocol.calls == []


async def test_datagrams_are_received_while_others_wait_to_be_sent(loop, endpoint, sockets, folder):
    peer = sockets("peer")
    transport, protocol = await endpoint(local_addr="ours", remote_addr="peer", family=socket.AF_UNIX)
    it = Blocked(transport, protocol, peer, None)
    for data in numbered(8):
        peer.sendto(data, "ours")
    assert await protocol.received(8) == numbered(8)
    assert transport.get_write_buffer_size() == SIZE + HEADER
    transport.pause_reading()
    assert await drained(loop, peer, len(it.sent)) == it.sent


async def test_datagrams_to_several_wait_in_order(loop, endpoint, sockets, folder):
    peers = {name: sockets(name) for name in ("peer", "zwölf", "three")}
    transport, protocol = await endpoint(family=socket.AF_UNIX)
    it = Blocked(transport, protocol, peers["peer"], "peer")
    sent = {"peer": it.sent, "zwölf": [], "three": []}
    for data, name in zip(numbered(24), itertools.cycle(["zwölf", "three", "peer"])):
        sent[name].append(data)
        transport.sendto(data, name)
    assert not transport.is_closing()
    for name, peer in peers.items():
        assert await drained(loop, peer, len(sent[name])) == sent[name]
    assert protocol.errors == []
    assert transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("address", [b"other", bytearray(b"other"), Text("other"), ABSTRACT, "zwölf", "\udcff"])
async def test_a_datagram_to_an_address_of_any_form_waits_like_others(loop, endpoint, sockets, folder, address):
    other = sockets(bytes(address) if isinstance(address, bytearray) else address)
    peer = sockets("peer")
    transport, protocol = await endpoint(family=socket.AF_UNIX)
    it = Blocked(transport, protocol, peer, "peer")
    transport.sendto(b"x", address)
    assert transport.get_write_buffer_size() == SIZE + 1 + 2 * HEADER
    assert await drained(loop, peer, len(it.sent)) == it.sent
    assert await drained(loop, other, 1) == [b"x"]
    assert protocol.errors == []


async def test_a_datagram_that_fails_when_its_turn_comes_is_an_error_and_the_others_are_sent(loop, blocked):
    it = await blocked()
    it.send(2)
    it.transport.sendto(bytes(1 << 23), it.address)  # more than a socket may hold
    assert it.protocol.errors == []
    it.send(2)
    assert await drained(loop, it.peer, len(it.sent)) == it.sent
    assert [exc.errno for exc in it.protocol.errors] == [errno.EMSGSIZE]
    assert it.transport.get_write_buffer_size() == 0
    assert not it.transport.is_closing()


async def test_an_address_that_cannot_be_reached_is_an_error_when_its_turn_comes(loop, endpoint, sockets, folder):
    peer = sockets("peer")
    transport, protocol = await endpoint(family=socket.AF_UNIX)
    it = Blocked(transport, protocol, peer, "peer")
    transport.sendto(b"x", "missing")
    assert protocol.errors == []
    it.send(2)
    assert await drained(loop, peer, len(it.sent)) == it.sent
    assert [type(exc) for exc in protocol.errors] == [FileNotFoundError]


async def test_what_is_no_address_ends_the_transport_when_its_turn_comes(loop, endpoint, reports, sockets, folder):
    peer = sockets("peer")
    transport, protocol = await endpoint(family=socket.AF_UNIX)
    it = Blocked(transport, protocol, peer, "peer")
    it.send(2)
    transport.sendto(b"x", 5)
    assert not transport.is_closing()
    transport.sendto(b"never sent", "peer")
    assert await drained(loop, peer, len(it.sent)) == it.sent
    assert type(await protocol.lost) is TypeError
    context = reports.take()
    assert context["message"] == "Fatal write error on datagram transport"
    assert context["exception"] is protocol.exception
    with pytest.raises(BlockingIOError):
        peer.recv(SIZE)


async def test_a_peer_that_is_gone_is_an_error_for_each_datagram_that_waits(loop, blocked):
    it = await blocked(prepare=lambda transport: transport.set_write_buffer_limits(high=SIZE))
    it.send(4)
    it.protocol.calls.clear()
    it.peer.close()
    await it.protocol.called("resume_writing")
    assert it.protocol.errors[0].errno == errno.ECONNREFUSED
    assert it.protocol.calls == ["error_received"] * 5 + ["resume_writing"]
    assert it.transport.get_write_buffer_size() == 0
    assert not it.transport.is_closing()


async def test_close_sends_what_waits(loop, blocked):
    it = await blocked()
    it.send(5)
    it.transport.close()
    assert it.transport.is_closing()
    assert it.transport.get_write_buffer_size() == 6 * (SIZE + HEADER)
    await settled(loop)
    assert it.protocol.calls == []
    assert await drained(loop, it.peer, len(it.sent)) == it.sent
    assert await it.protocol.lost is None
    assert it.protocol.calls == ["connection_lost"]


async def test_what_is_sent_while_a_close_waits_is_sent_too(loop, blocked):
    it = await blocked()
    it.transport.close()
    it.send(3)
    assert await drained(loop, it.peer, len(it.sent)) == it.sent
    assert await it.protocol.lost is None


async def test_nothing_is_received_while_a_close_waits(loop, endpoint, sockets, folder):
    peer = sockets("peer")
    transport, protocol = await endpoint(local_addr="ours", remote_addr="peer", family=socket.AF_UNIX)
    it = Blocked(transport, protocol, peer, None)
    for data in numbered(5):
        peer.sendto(data, "ours")
    transport.close()
    transport.resume_reading()
    await settled(loop)
    assert await drained(loop, peer, len(it.sent)) == it.sent
    assert await protocol.lost is None
    assert protocol.calls == ["connection_lost"]


async def test_a_close_that_waits_is_over_when_the_peer_is_gone(blocked):
    it = await blocked()
    it.send(2)
    it.transport.close()
    it.peer.close()
    assert await it.protocol.lost is None
    assert it.protocol.calls == ["error_received"] * 3 + ["connection_lost"]


async def test_abort_drops_what_waits(loop, blocked):
    it = await blocked()
    it.send(5)
    it.transport.abort()
    assert await it.protocol.lost is None
    assert await drained(loop, it.peer, len(it.sent) - 6) == it.sent[:-6]
    with pytest.raises(BlockingIOError):
        it.peer.recv(SIZE)
    assert it.protocol.calls == ["connection_lost"]


async def test_abort_ends_a_close_that_waits_for_the_peer(blocked):
    it = await blocked()
    it.transport.close()
    it.transport.abort()
    assert await it.protocol.lost is None
    assert it.protocol.calls == ["connection_lost"]


async def test_writing_does_not_resume_after_abort(loop, blocked):
    it = await blocked(prepare=lambda transport: transport.set_write_buffer_limits(high=0))
    it.transport.abort()
    await it.protocol.lost
    await settled(loop)
    assert it.protocol.calls == ["connection_lost"]


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_pause_writing_may_end_the_transport(loop, blocked, end):
    class Protocol(Datagrams):
        def pause_writing(self):
            super().pause_writing()
            getattr(self.transport, end)()

    it = await blocked(Protocol())
    it.transport.set_write_buffer_limits(high=0)
    arrived = len(it.sent) - (end == "abort")
    assert await drained(loop, it.peer, arrived) == it.sent[:arrived]
    assert await it.protocol.lost is None
    assert it.protocol.calls.count("connection_lost") == 1


async def test_error_received_in_the_middle_of_what_waits_may_abort(loop, blocked):
    class Protocol(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            self.transport.abort()

    it = await blocked(Protocol())
    it.transport.sendto(bytes(1 << 23), it.address)
    it.send(3)
    assert await drained(loop, it.peer, len(it.sent) - 3) == it.sent[:-3]
    assert await it.protocol.lost is None
    assert it.protocol.calls == ["pause_writing", "error_received", "connection_lost"]
    with pytest.raises(BlockingIOError):
        it.peer.recv(SIZE)


class Wayward(Datagrams):
    """Sends more when it may, and something else when it should not."""

    def __init__(self, numbers, send):
        super().__init__()
        self.numbers = numbers
        self.send = send
        self.paused = False

    def pause_writing(self):
        assert not self.paused
        self.paused = True
        super().pause_writing()
        if self.numbers.randrange(3) == 0:
            self.send()

    def resume_writing(self):
        assert self.paused
        self.paused = False
        super().resume_writing()
        for _ in range(self.numbers.randrange(4)):
            self.send()

    def error_received(self, exc):
        super().error_received(exc)
        if self.numbers.randrange(3) == 0:
            self.send()


@pytest.mark.parametrize("seed", range(8))
async def test_a_wayward_sender_loses_nothing(loop, endpoint, sockets, folder, seed):
    def send():
        name = numbers.choice([*peers, "missing"])
        data = b"%05d" % next(count) + bytes(numbers.choice([0, 10, 3000]))
        sent[name].append(data)
        transport.sendto(data, name.encode() if numbers.randrange(3) == 0 else name)

    def receive(name):
        with contextlib.suppress(BlockingIOError):
            for _ in range(numbers.randrange(6)):
                received[name].append(peers[name].recv(4000))

    numbers = random.Random(seed)
    count = itertools.count()
    peers = {name: sockets(name) for name in ("one", "two", "zwölf", ABSTRACT)}
    sent, received = collections.defaultdict(list), collections.defaultdict(list)
    transport, protocol = await endpoint(Wayward(numbers, send), family=socket.AF_UNIX)
    transport.set_write_buffer_limits(high=10_000, low=numbers.choice([0, 5000, 10_000]))
    for _ in range(150):
        for _ in range(numbers.randrange(5)):
            send()
        receive(numbers.choice(list(peers)))
        if numbers.randrange(2) == 0:
            await asyncio.sleep(0)
    transport.close()
    while not protocol.lost.done():
        receive(numbers.choice(list(peers)))
        await asyncio.sleep(0)
    for name, peer in peers.items():
        received[name] += [peer.recv(4000) for _ in range(len(sent[name]) - len(received[name]))]
    assert received == {name: data for name, data in sent.items() if name in peers}
    assert [type(exc) for exc in protocol.errors] == [FileNotFoundError] * len(sent["missing"])
