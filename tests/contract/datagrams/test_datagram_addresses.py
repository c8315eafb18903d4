"""Datagrams go to and come from addresses of every family, written in every form that Python's sockets take."""

import collections
import pathlib
import socket

import pytest
from datagram_checker import ABSTRACT, LOCAL, PACKETS, Text, converse, drained, numbered


async def test_datagrams_go_both_ways(endpoint):
    one, first = await endpoint(local_addr=LOCAL)
    _, second = await endpoint(remote_addr=one.get_extra_info("sockname"))
    await converse(second, first)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.10.99", "127.100.109.255", "127.200.199.110"])
async def test_the_address_of_an_ipv4_sender_is_the_one_of_recvfrom(endpoint, sockets, host):
    ours, sender, plain = sockets(), sockets((host, 0)), sockets()
    _, protocol = await endpoint(sock=ours)
    sender.sendto(b"in", plain.getsockname())
    sender.sendto(b"in", ours.getsockname())
    await protocol.received()
    assert protocol.datagrams == [plain.recvfrom(10)] == [(b"in", sender.getsockname())]


async def test_ipv6_datagrams_go_both_ways(endpoint):
    one, first = await endpoint(local_addr=("::1", 0))
    assert len(one.get_extra_info("sockname")) == 4
    _, second = await endpoint(remote_addr=one.get_extra_info("sockname")[:2])
    await converse(second, first)


async def test_an_ipv6_socket_may_talk_to_ipv4(loop, endpoint, sockets):
    dual = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    dual.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    dual.bind(("::", 0))
    transport, protocol = await endpoint(sock=dual)
    peer = sockets()
    peer.sendto(b"in", ("127.0.0.1", dual.getsockname()[1]))
    await protocol.received()
    address = ("::ffff:127.0.0.1", peer.getsockname()[1], 0, 0)
    assert protocol.datagrams == [(b"in", address)]
    transport.sendto(b"out", address)
    assert await loop.sock_recv(peer, 10) == b"out"


@pytest.mark.parametrize("names", [("one", "two"), ("one", "zwölf"), (ABSTRACT + "1", ABSTRACT + "2")])
async def test_unix_datagrams_go_both_ways(endpoint, folder, names):
    _, first = await endpoint(local_addr=names[0], family=socket.AF_UNIX)
    _, second = await endpoint(local_addr=names[1], remote_addr=names[0], family=socket.AF_UNIX)
    await converse(second, first)


@pytest.mark.parametrize("bound", ["path", b"with-\xff", ABSTRACT, "\0with\0zeros", ""])
async def test_the_address_of_a_unix_sender_is_the_one_of_recvfrom(loop, endpoint, sockets, folder, bound):
    ours, sender, plain = sockets("ours"), sockets(bound), sockets("plain")
    transport, protocol = await endpoint(sock=ours)
    sender.sendto(b"in", "ours")
    sender.sendto(b"in", "plain")
    await protocol.received()
    assert protocol.datagrams == [plain.recvfrom(10)]
    assert type(protocol.datagrams[0][1]) is (str if bound == "path" or bound == b"with-\xff" else bytes)
    transport.sendto(b"out", protocol.datagrams[0][1])
    assert await loop.sock_recv(sender, 10) == b"out"


async def test_a_unix_sender_without_a_name_has_no_address(endpoint, folder, sockets):
    transport, protocol = await endpoint(sock=sockets("ours"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for data in numbered(8):
            sender.sendto(data, "ours")
    await protocol.received(8)
    assert protocol.datagrams == [(data, None) for data in numbered(8)]


async def test_a_pair_receives_datagrams_without_address(endpoint, datagram_pair):
    ours, peer = datagram_pair
    transport, protocol = await endpoint(sock=ours)
    for data in numbered(8):
        peer.send(data)
    await protocol.received(8)
    assert protocol.datagrams == [(data, None) for data in numbered(8)]


@PACKETS
async def test_a_packet_socket_receives_one_packet_a_call(endpoint):
    ours, peer = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with peer:
        transport, protocol = await endpoint(sock=ours)
        for data in numbered(8):
            peer.send(data)
        await protocol.received(8)
        assert protocol.datagrams == [(data, None) for data in numbered(8)]
        transport.abort()
        await protocol.lost


async def test_a_pair_sends_to_an_address_that_is_given(loop, endpoint, datagram_pair, sockets, folder):
    other = sockets("other")
    transport, _ = await endpoint(sock=datagram_pair[0])
    transport.sendto(b"x", "other")
    assert await loop.sock_recv(other, 10) == b"x"
    with pytest.raises(BlockingIOError):
        datagram_pair[1].recv(10)


async def test_named_and_unnamed_unix_senders_are_told_apart(endpoint, sockets, folder):
    _, protocol = await endpoint(sock=sockets("ours"))
    one, two = sockets("one"), sockets("two")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unnamed:
        for sender in (one, unnamed, two, unnamed, one, one, unnamed, two):
            sender.sendto(b"x", "ours")
    await protocol.received(8)
    assert [address for _, address in protocol.datagrams] == ["one", None, "two", None, "one", "one", None, "two"]


class Address(collections.namedtuple("Address", "host port")):
    pass


@pytest.mark.parametrize(
    "address",
    [
        lambda host, port: (host, port),
        lambda host, port: (host.encode(), port),
        lambda host, port: (bytearray(host.encode()), port),
        lambda host, port: (Text(host), port),
        lambda host, port: Address(host, port),
        lambda host, port: ("localhost", port),
        lambda host, port: ("127.1", port),
        lambda host, port: ("", port),
        lambda host, port: ("0.0.0.0", port),
    ],
)
async def test_ipv4_addresses_of_every_form_are_sent_to(loop, endpoint, sockets, address):
    peer = sockets()
    transport, protocol = await endpoint(family=socket.AF_INET)
    transport.sendto(b"x", address(*peer.getsockname()))
    assert await loop.sock_recv(peer, 10) == b"x"
    assert protocol.calls == ["connection_made"]


@pytest.mark.parametrize(
    "address",
    [
        lambda host, port: (host, port),
        lambda host, port: (host, port, 0),
        lambda host, port: (host, port, 0, 0),
        lambda host, port: (host, port, 0xFFFFF, 0),
        lambda host, port: ("0:0::0:1", port),
        lambda host, port: (host.encode(), port),
        lambda host, port: ("", port),
    ],
)
async def test_ipv6_addresses_of_every_form_are_sent_to(loop, endpoint, sockets, address):
    peer = sockets(("::1", 0))
    transport, protocol = await endpoint(family=socket.AF_INET6)
    transport.sendto(b"x", address(*peer.getsockname()[:2]))
    assert await loop.sock_recv(peer, 10) == b"x"
    assert protocol.calls == ["connection_made"]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("path", "path"),
        ("path", b"path"),
        ("path", bytearray(b"path")),
        ("path", Text("path")),
        ("path", "path\0and what nobody sees"),
        ("zwölf", "zwölf"),
        (b"\xff", "\udcff"),
        (ABSTRACT, ABSTRACT),
        (ABSTRACT, ABSTRACT.encode()),
    ],
)
async def test_unix_addresses_of_every_form_are_sent_to(loop, endpoint, sockets, folder, name, address):
    peer = sockets(name)
    transport, protocol = await endpoint(family=socket.AF_UNIX)
    transport.sendto(b"x", address)
    assert await loop.sock_recv(peer, 10) == b"x"
    assert protocol.calls == ["connection_made"]


def refused_by_python(family, address):
    """The exception of a plain socket that sends to `address`."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock, pytest.raises(Exception) as caught:
        sock.sendto(b"x", address)
    return caught.value


WRONG_ADDRESSES = [
    *[
        (socket.AF_INET, address)
        for address in [
            (),
            ("127.0.0.1",),
            ("127.0.0.1", 9, 0),
            ["127.0.0.1", 9],
            "127.0.0.1",
            None,
            ("127.0.0.1", -1),
            ("127.0.0.1", 65536),
            ("127.0.0.1", 1 << 40),
            ("127.0.0.1", "9"),
            ("127.0.0.1", 9.0),
            ("127.0.0.1", None),
            (None, 9),
            (1, 9),
            ("127.0.0.1\0", 9),
            ("\udc80", 9),
        ]
    ],
    *[
        (socket.AF_INET6, address)
        for address in [
            ("::1",),
            ("::1", 9, 0, 0, 0),
            ("::1", 9, 1 << 20, 0),
            ("::1", 9, -1, 0),
            ("::1", 9, 0, "lo"),
            ["::1", 9],
            ("::1", 65536),
        ]
    ],
    *[(socket.AF_UNIX, address) for address in [5, None, ("path", 9), pathlib.Path("path")]],
]


@pytest.mark.parametrize(("family", "address"), WRONG_ADDRESSES)
async def test_what_is_no_address_ends_the_transport(endpoint, reports, family, address):
    expected = refused_by_python(family, address)
    assert not isinstance(expected, OSError)
    transport, protocol = await endpoint(family=family)
    transport.sendto(b"x", address)
    assert transport.is_closing()
    exc = await protocol.lost
    assert (type(exc), exc.args) == (type(expected), expected.args)
    context = reports.take()
    assert context["message"] == "Fatal write error on datagram transport"
    assert context["exception"] is exc
    assert context["transport"] is transport
    assert context["protocol"] is protocol
    assert protocol.calls == ["connection_made", "connection_lost"]


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, ("127.0.0.1", 0)),
        (socket.AF_INET, ("::1", 9)),
        (socket.AF_INET, ("127.255.255.255", 9)),
        (socket.AF_INET6, ("127.0.0.1", 9)),
        (socket.AF_UNIX, ""),
        (socket.AF_UNIX, "missing"),
        (socket.AF_UNIX, "plain file"),
        (socket.AF_UNIX, "x" * 107),
        (socket.AF_UNIX, "x" * 108),
        (socket.AF_UNIX, b"x" * 108),
        (socket.AF_UNIX, "x" * 109),
        (socket.AF_UNIX, "\0" + "x" * 108),
    ],
)
async def test_an_address_that_cannot_be_reached_is_an_error_for_the_protocol(endpoint, folder, family, address):
    (folder / "plain file").touch()
    expected = refused_by_python(family, address)
    assert isinstance(expected, OSError)
    transport, protocol = await endpoint(family=family)
    transport.sendto(b"x", address)
    (exc,) = protocol.errors  # inside sendto
    assert (type(exc), exc.args) == (type(expected), expected.args)
    assert not transport.is_closing()


async def test_a_datagram_may_be_sent_again_to_the_address_of_any_sender(loop, endpoint, sockets):
    transport, protocol = await endpoint(local_addr=LOCAL)
    peers = [sockets() for _ in range(5)]
    order = [number % 5 for number in range(20)] + [3, 3, 0, 3, 1, 1, 4]
    for number in order:
        peers[number].sendto(b"%d" % number, transport.get_extra_info("sockname"))
    await protocol.received(len(order))
    for data, address in protocol.datagrams:
        transport.sendto(b"answer to " + data, address)
    for number, peer in enumerate(peers):
        count = order.count(number)
        assert await drained(loop, peer, count) == [b"answer to %d" % number] * count
