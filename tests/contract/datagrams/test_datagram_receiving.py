"""What a protocol receives, and when: paused, replaced, in the context of its creator."""

import contextvars
import random
import socket

import pytest
from datagram_checker import LARGEST, LOCAL, Datagrams, numbered, settled


async def test_a_datagram_arrives_as_bytes(endpoint, sockets):
    transport, protocol = await endpoint(local_addr=LOCAL)
    peer = sockets()
    for data in numbered(10):
        peer.sendto(data, transport.get_extra_info("sockname"))
    await protocol.received(10)
    assert {(type(data), type(address)) for data, address in protocol.datagrams} == {(bytes, tuple)}


async def test_an_empty_datagram_among_others_is_received(endpoint, sockets):
    transport, protocol = await endpoint(local_addr=LOCAL)
    peer = sockets()
    sent = [b"", b"one", b"", b"", b"two", b"three", b"", b"four", b""]
    for data in sent:
        peer.sendto(data, transport.get_extra_info("sockname"))
    assert await protocol.received(len(sent)) == sent
    assert {address for _, address in protocol.datagrams} == {peer.getsockname()}


async def test_datagrams_of_all_sizes_are_received_in_one_go(endpoint, sockets):
    ours, peer = sockets(), sockets()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 212_992)
    transport, protocol = await endpoint(sock=ours)
    sizes = [1, 2, 3, 4, 5, 6, 7, 20_000, 1, 0, LARGEST, 1, 1472, 1473, 100]
    sent = [random.Random(size).randbytes(size) for size in sizes]
    for data in sent:
        peer.sendto(data, ours.getsockname())
    assert await protocol.received(len(sent)) == sent


async def test_a_unix_datagram_may_be_larger_than_any_of_ip(endpoint, sockets, folder):
    transport, protocol = await endpoint(sock=sockets("ours"))
    sent = [random.Random(number).randbytes(150_000) for number in range(8)]
    for number, data in enumerate(sent):
        sockets(f"{number}").sendto(data, "ours")
    assert await protocol.received(8) == sent
    assert [address for _, address in protocol.datagrams] == [f"{number}" for number in range(8)]


async def test_a_unix_datagram_is_cut_where_asyncio_cuts_it(endpoint, datagram_pair):
    ours, peer = datagram_pair
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212_992)
    transport, protocol = await endpoint(sock=ours)
    data = random.Random(1).randbytes(300_000)
    for _ in range(4):
        peer.send(data)
        peer.send(b"next")
        await protocol.received(2)
        assert protocol.data_of_all == [data[: 256 * 1024], b"next"]
        protocol.datagrams.clear()


async def test_pause_reading_holds_datagrams_back(loop, endpoint, sockets):
    transport, protocol = await endpoint(local_addr=LOCAL)
    transport.pause_reading()
    assert not transport.is_reading()
    for data in numbered(5):
        sockets().sendto(data, transport.get_extra_info("sockname"))
    await settled(loop)
    assert protocol.datagrams == []
    transport.resume_reading()
    assert transport.is_reading()
    assert await protocol.received(5) == numbered(5)


async def test_pausing_and_resuming_twice_is_harmless(endpoint, sockets):
    transport, protocol = await endpoint(local_addr=LOCAL)
    for method in ("resume_reading", "pause_reading", "pause_reading", "resume_reading", "resume_reading"):
        getattr(transport, method)()
    sockets().sendto(b"x", transport.get_extra_info("sockname"))
    assert await protocol.received() == [b"x"]


async def test_pause_reading_in_connection_made_holds_datagrams_back(loop, endpoint, sockets):
    class Protocol(Datagrams):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    ours = sockets()
    sockets().sendto(b"x", ours.getsockname())
    transport, protocol = await endpoint(Protocol(), sock=ours)
    await settled(loop)
    assert protocol.datagrams == []
    transport.resume_reading()
    assert await protocol.received() == [b"x"]


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_an_end_in_connection_made_is_the_end(endpoint, sockets, end):
    class Protocol(Datagrams):
        def connection_made(self, transport):
            super().connection_made(transport)
            getattr(transport, end)()

    ours = sockets()
    sockets().sendto(b"x", ours.getsockname())
    transport, protocol = await endpoint(Protocol(), sock=ours)
    assert transport.is_closing()
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_set_protocol_sends_the_rest_to_the_new_protocol(endpoint, sockets):
    transport, old = await endpoint(local_addr=LOCAL)
    peer = sockets()
    peer.sendto(b"old", transport.get_extra_info("sockname"))
    await old.received()
    new = Datagrams()
    transport.set_protocol(new)
    assert transport.get_protocol() is new
    peer.sendto(b"new", transport.get_extra_info("sockname"))
    assert await new.received() == [b"new"]
    transport.close()
    assert await new.lost is None
    assert old.calls == ["connection_made", "datagram_received"]
    assert new.calls == ["datagram_received", "connection_lost"]


async def test_the_method_of_the_protocol_may_change(endpoint, sockets):
    transport, protocol = await endpoint(local_addr=LOCAL)
    peer = sockets()
    later = []

    def received_later(data, address):
        later.append(data)
        if len(later) == 4:
            protocol.note("enough")

    peer.sendto(b"first", transport.get_extra_info("sockname"))
    await protocol.received()
    protocol.datagram_received = received_later
    for data in numbered(4):
        peer.sendto(data, transport.get_extra_info("sockname"))
    await protocol.called("enough")
    assert later == numbered(4)
    assert protocol.data_of_all == [b"first"]


async def test_the_protocol_runs_in_the_context_of_its_creator(endpoint, sockets):
    variable = contextvars.ContextVar("variable", default="nothing")
    seen = []

    class Protocol(Datagrams):
        def connection_made(self, transport):
            seen.append(variable.get())
            super().connection_made(transport)

        def datagram_received(self, data, address):
            seen.append(variable.get())
            super().datagram_received(data, address)

    variable.set("the creator's")
    transport, protocol = await endpoint(Protocol(), local_addr=LOCAL)
    variable.set("somebody else's")
    for data in numbered(5):
        sockets().sendto(data, transport.get_extra_info("sockname"))
    await protocol.received(5)
    assert seen == ["the creator's"] * 6
