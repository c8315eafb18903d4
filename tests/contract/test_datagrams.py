"""Datagram endpoints: UDP over IPv4 and IPv6, and Unix sockets of type datagram, as asyncio has them.

Where a test says what happens between two datagrams, it means asyncio's order: one datagram is received for each
look at the poller, so whatever a protocol does in one `datagram_received` comes before the next.
"""

import array
import asyncio
import collections
import contextlib
import contextvars
import errno
import fcntl
import gc
import itertools
import logging
import os
import pathlib
import random
import socket
import sys
import time
import weakref

import pytest
from checker import Recorder, polled
from support import gone, start_child, wait_until_idle, warning_texts

# What a waiting datagram counts beyond its data.
HEADER = 8 if sys.version_info >= (3, 13) else 0
LARGEST = 65507  # what an IPv4 packet holds
LOCAL = ("127.0.0.1", 0)
PACKETS = pytest.mark.skipif(sys.version_info < (3, 13), reason="packet sockets are taken from 3.13 on")
# Abstract names belong to the whole machine: several runs of these tests must not meet.
ABSTRACT = f"\0velodrome-datagrams-{os.getpid()}"

with_empty_datagrams = pytest.mark.skipif(sys.version_info < (3, 13), reason="nothing empty is sent before 3.13")


class Datagrams(Recorder, asyncio.DatagramProtocol):
    def __init__(self):
        super().__init__()
        self.datagrams = []
        self.errors = []

    def datagram_received(self, data, address):
        self.datagrams.append((data, address))
        self.note("datagram_received")

    def error_received(self, exc):
        self.errors.append(exc)
        self.note("error_received")

    @property
    def data_of_all(self):
        return [data for data, _ in self.datagrams]

    async def received(self, count=1):
        """The data of the first `count` datagrams, once they are here."""
        await self.until(lambda: len(self.datagrams) >= count)
        return self.data_of_all[:count]

    async def failed(self, count=1):
        """The first `count` errors, once they are here."""
        await self.until(lambda: len(self.errors) >= count)
        return self.errors[:count]


class Acting(Datagrams):
    """Calls `action(transport)` in the `at`-th datagram, from 1 on."""

    def __init__(self, at, action):
        super().__init__()
        self.at = at
        self.action = action

    def datagram_received(self, data, address):
        super().datagram_received(data, address)
        if len(self.datagrams) == self.at:
            self.action(self.transport)


def raising(method):
    """A protocol whose `method` does what it does and then raises the protocol's `error`."""

    def call(self, *args):
        getattr(Datagrams, method)(self, *args)
        raise self.error

    return type("Raising", (Datagrams,), {method: call, "error": ZeroDivisionError("the protocol's")})()


def numbered(count, start=0):
    return [b"%05d" % number for number in range(start, start + count)]


def send_each(sock, datagrams):
    for data in datagrams:
        sock.send(data)


async def settled(loop):
    """What was going to happen without anybody's help has happened."""
    for _ in range(3):
        await polled(loop)


async def converse(asking, asked, question=b"question", answer=b"answer"):
    """One protocol asks its remote address, the other answers; each has seen the other's address and nothing else."""
    asking.transport.sendto(question)
    await asked.received()
    assert asked.datagrams == [(question, asking.transport.get_extra_info("sockname"))]
    asked.transport.sendto(answer, asked.datagrams[0][1])
    await asking.received()
    assert asking.datagrams == [(answer, asked.transport.get_extra_info("sockname"))]


async def drained(loop, sock, count):
    """The next `count` datagrams that a socket of ours receives."""
    return [await loop.sock_recv(sock, 1 << 20) for _ in range(count)]


@pytest.fixture
def endpoint(loop):
    """Makes (transport, protocol) of a protocol, or what makes one, and the options; all are closed at the end."""
    transports = []

    async def create(protocol=Datagrams, **options):
        if callable(protocol):
            protocol = protocol()
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, **options)
        transports.append(transport)
        return transport, protocol

    yield create

    async def close_all():
        protocols = [(transport, transport.get_protocol()) for transport in transports]
        for transport, protocol in protocols:
            if protocol is not None:
                transport.abort()
        await asyncio.gather(*(protocol.lost for _, protocol in protocols if protocol is not None))

    if transports and not loop.is_closed():
        loop.run_until_complete(close_all())
    transports.clear()


@pytest.fixture
def sockets():
    """Makes non-blocking datagram sockets that are bound to an address; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(address=LOCAL):
            if isinstance(address, tuple):
                family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            else:
                family = socket.AF_UNIX
            sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sock.setblocking(False)
            sock.bind(address)
            return sock

        yield make


@pytest.fixture
def datagram_pair():
    """Two connected non-blocking Unix datagram sockets without names."""
    one, other = socket.socketpair(type=socket.SOCK_DGRAM)
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory: paths in it are short enough for a Unix socket."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nobody():
    """An address at which nobody listens."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(LOCAL)
        return sock.getsockname()


@pytest.fixture(params=["udp", "unix"])
def arriving(request, endpoint, sockets, datagram_pair):
    """Opens an endpoint to which a socket has sent numbered datagrams; none has been received yet.

    (transport, protocol, the data that was sent, the sending socket); with `now=False` it is still to be sent.
    """

    async def connect(protocol, now=True):
        if request.param == "udp":
            sender, count = sockets(), 100
            transport, protocol = await endpoint(protocol, local_addr=LOCAL)
            sender.connect(transport.get_extra_info("sockname"))
        else:
            ours, sender = datagram_pair
            transport, protocol = await endpoint(protocol, sock=ours)
            count = 10  # as many as a Unix socket holds on every system
        sent = numbered(count)
        if now:
            send_each(sender, sent)
        return transport, protocol, sent, sender

    return connect


# Datagrams after which something happens: several may be received at once, in batches of any size.
positions = pytest.mark.parametrize("at", [1, 2, 3, 6])


# --- addresses of every family --------------------------------------------------------------------


async def test_datagrams_go_both_ways(endpoint):
    one, first = await endpoint(local_addr=LOCAL)
    _, second = await endpoint(remote_addr=one.get_extra_info("sockname"))
    await converse(second, first)


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


class Text(str):
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


# --- making an endpoint ---------------------------------------------------------------------------


async def test_an_endpoint_needs_an_address_or_a_family(endpoint):
    with pytest.raises(ValueError, match="unexpected address family"):
        await endpoint()


async def test_a_family_is_enough(loop, endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(family=socket.AF_INET)
    transport.sendto(b"x", peer.getsockname())
    assert peer.recvfrom(10) == (b"x", ("127.0.0.1", transport.get_extra_info("socket").getsockname()[1]))


@pytest.mark.parametrize("option", ["local_addr", "remote_addr"])
@pytest.mark.parametrize("address", ["127.0.0.1", ("127.0.0.1",), ["127.0.0.1", 9], ("::1", 9, 0, 0)])
async def test_an_ip_address_is_a_pair(endpoint, option, address):
    with pytest.raises(TypeError, match="2-tuple is expected"):
        await endpoint(**{option: address})


@pytest.mark.parametrize("option", ["local_addr", "remote_addr"])
@pytest.mark.parametrize("address", [b"path", ("path", 9), 5])
async def test_a_unix_address_is_text(endpoint, option, address):
    with pytest.raises(TypeError, match="string is expected"):
        await endpoint(family=socket.AF_UNIX, **{option: address})


async def test_both_addresses_are_of_one_family(endpoint):
    with pytest.raises(ValueError, match="can not get address information"):
        await endpoint(local_addr=LOCAL, remote_addr=("::1", 9))


async def test_local_and_remote_addr_may_both_be_given(endpoint, sockets):
    peer = sockets()
    transport, protocol = await endpoint(local_addr=("127.0.0.2", 0), remote_addr=peer.getsockname())
    assert transport.get_extra_info("sockname")[0] == "127.0.0.2"
    transport.sendto(b"x")
    assert peer.recvfrom(10) == (b"x", transport.get_extra_info("sockname"))


async def test_a_connected_endpoint_hears_of_its_peer_only(loop, endpoint, sockets):
    peer, stranger = sockets(), sockets()
    transport, protocol = await endpoint(remote_addr=peer.getsockname())
    for sender, data in ((stranger, b"stranger"), (peer, b"peer")):
        sender.sendto(data, transport.get_extra_info("sockname"))
    await protocol.received()
    await settled(loop)
    assert protocol.datagrams == [(b"peer", peer.getsockname())]


async def test_names_of_hosts_are_resolved(endpoint, sockets):
    peer = sockets()
    address = ("localhost", peer.getsockname()[1])
    transport, _ = await endpoint(local_addr=("localhost", 0), remote_addr=address, family=socket.AF_INET)
    assert transport.get_extra_info("peername") == peer.getsockname()
    transport.sendto(b"x")
    assert peer.recvfrom(10) == (b"x", transport.get_extra_info("sockname"))


async def test_proto_and_flags_are_obeyed(endpoint):
    options = {"proto": socket.IPPROTO_UDP, "flags": socket.AI_NUMERICHOST}
    transport, _ = await endpoint(local_addr=LOCAL, **options)
    assert transport.get_extra_info("socket").proto == socket.IPPROTO_UDP
    with pytest.raises(socket.gaierror):
        await endpoint(local_addr=("localhost", 0), **options)


async def test_the_family_is_obeyed(endpoint):
    with pytest.raises(OSError):
        await endpoint(local_addr=LOCAL, family=socket.AF_INET6)


async def test_an_address_in_use_is_an_error(endpoint, sockets):
    with pytest.raises(OSError) as caught:
        await endpoint(local_addr=sockets().getsockname())
    assert caught.value.errno == errno.EADDRINUSE


async def test_reuse_port_shares_an_address(endpoint):
    one, _ = await endpoint(local_addr=LOCAL, reuse_port=True)
    two, _ = await endpoint(local_addr=one.get_extra_info("sockname"), reuse_port=True)
    assert two.get_extra_info("sockname") == one.get_extra_info("sockname")
    with pytest.raises(OSError):
        await endpoint(local_addr=one.get_extra_info("sockname"))


async def test_broadcasting_must_be_allowed(endpoint):
    with pytest.raises(PermissionError):
        await endpoint(remote_addr=("127.255.255.255", 9))


async def test_allow_broadcast_leaves_the_socket_unconnected(endpoint, sockets):
    peer = sockets()
    transport, protocol = await endpoint(remote_addr=peer.getsockname(), allow_broadcast=True)
    assert transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
    assert transport.get_extra_info("peername") is None
    transport.sendto(b"to the remote address")
    data, address = peer.recvfrom(100)
    assert data == b"to the remote address"
    stranger = sockets()
    stranger.sendto(b"from anybody", ("127.0.0.1", address[1]))
    await protocol.received()
    assert protocol.datagrams == [(b"from anybody", stranger.getsockname())]
    with pytest.raises(ValueError, match="Invalid address"):
        transport.sendto(b"x", stranger.getsockname())


async def test_a_broadcast_reaches_who_listens(endpoint, sockets):
    listener = sockets(("0.0.0.0", 0))
    remote = ("127.255.255.255", listener.getsockname()[1])
    transport, protocol = await endpoint(remote_addr=remote, allow_broadcast=True)
    transport.sendto(b"all of you")
    assert listener.recv(100) == b"all of you"
    assert protocol.errors == []


async def test_a_stale_unix_socket_is_replaced(endpoint, folder):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
        stale.bind("ours")
    _, protocol = await endpoint(local_addr="ours", family=socket.AF_UNIX)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", "ours")
    assert await protocol.received() == [b"x"]


async def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(endpoint, folder):
    (folder / "ours").write_text("precious")
    with pytest.raises(OSError) as caught:
        await endpoint(local_addr="ours", family=socket.AF_UNIX)
    assert caught.value.errno == errno.EADDRINUSE
    assert (folder / "ours").read_text() == "precious"


async def test_a_unix_remote_addr_that_is_missing_is_an_error(endpoint, folder):
    with pytest.raises(FileNotFoundError):
        await endpoint(remote_addr="missing", family=socket.AF_UNIX)


async def test_a_socket_of_ours_is_used(endpoint, sockets):
    sock = sockets()
    sock.setblocking(True)
    transport, _ = await endpoint(sock=sock)
    assert sock.gettimeout() == 0
    assert transport.get_extra_info("socket").fileno() == sock.fileno()
    assert transport.get_extra_info("sockname") == sock.getsockname()


async def test_what_arrived_before_the_endpoint_was_made_is_delivered(endpoint, sockets):
    ours, peer = sockets(), sockets()
    for data in numbered(5):
        peer.sendto(data, ours.getsockname())
    _, protocol = await endpoint(sock=ours)
    assert await protocol.received(5) == numbered(5)
    assert protocol.calls[0] == "connection_made"


async def test_a_stream_socket_is_refused(endpoint, socket_pair):
    with pytest.raises(ValueError, match="expected, got <socket.socket"):
        await endpoint(sock=socket_pair[0])


@pytest.mark.parametrize(
    "option",
    [
        {"local_addr": LOCAL},
        {"remote_addr": ("127.0.0.1", 9)},
        {"family": socket.AF_INET},
        {"proto": socket.IPPROTO_UDP},
        {"flags": socket.AI_PASSIVE},
        {"reuse_port": True},
        {"allow_broadcast": True},
    ],
    ids=lambda option: next(iter(option)),
)
async def test_a_socket_of_ours_takes_no_other_option(endpoint, sockets, option):
    with pytest.raises(ValueError, match="can not be used when sock is specified") as caught:
        await endpoint(sock=sockets(), **option)
    assert f"({next(iter(option))}=" in str(caught.value)


async def test_connection_made_has_been_called_when_the_endpoint_is_there(endpoint):
    transport, protocol = await endpoint(local_addr=LOCAL)
    assert protocol.calls == ["connection_made"]
    assert protocol.transport is transport


async def test_a_socket_has_one_transport_only(loop, endpoint, sockets):
    transport, _ = await endpoint(sock=sockets())
    sock = transport.get_extra_info("socket")
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.add_reader(sock, print)
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.add_writer(sock.fileno(), print)
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.remove_reader(sock)
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.remove_writer(sock)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="since 3.12")
async def test_a_second_endpoint_over_the_same_socket_is_refused(endpoint, sockets):
    sock, peer = sockets(), sockets()
    _, protocol = await endpoint(sock=sock)
    with pytest.raises(RuntimeError, match="is used by transport"):
        await endpoint(sock=sock)
    peer.sendto(b"x", sock.getsockname())
    assert await protocol.received() == [b"x"]


async def test_a_cancelled_creation_ends_the_connection(loop):
    protocol = Datagrams()
    creating = loop.create_task(loop.create_datagram_endpoint(lambda: protocol, local_addr=LOCAL))
    await asyncio.sleep(0)  # the transport is made, and the task waits for it
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_a_creation_cancelled_by_the_factory_ends_the_connection(loop):
    protocol = Datagrams()

    def factory():
        creating.cancel()
        return protocol

    creating = loop.create_task(loop.create_datagram_endpoint(factory, local_addr=LOCAL))
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert await protocol.lost is None


# --- sending --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))])
async def test_any_bytes_can_be_sent(endpoint, sockets, kind):
    peer = sockets()
    transport, _ = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(kind(b"data"))
    assert peer.recv(10) == b"data"


async def test_a_subclass_of_bytes_can_be_sent(endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(type("Data", (bytes,), {})(b"data"))
    assert peer.recv(10) == b"data"


async def test_a_view_of_numbers_is_sent_as_its_bytes(endpoint, sockets):
    peer = sockets()
    numbers = array.array("i", range(10))
    transport, _ = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(memoryview(numbers))
    assert peer.recv(100) == numbers.tobytes()


async def test_a_view_with_gaps_ends_the_transport(endpoint, reports, sockets):
    transport, protocol = await endpoint(remote_addr=sockets().getsockname())
    transport.sendto(memoryview(b"abcdef")[::2])
    assert type(await protocol.lost) is BufferError
    context = reports.take()
    assert context["message"] == "Fatal write error on datagram transport"
    assert context["exception"] is protocol.exception


@pytest.mark.parametrize("data", ["text", None, 5, [b"x"], array.array("i", [1])])
@pytest.mark.parametrize("closed", [False, True])
async def test_what_is_no_bytes_cannot_be_sent(endpoint, nobody, data, closed):
    transport, protocol = await endpoint(remote_addr=nobody)
    if closed:
        transport.close()
    message = f"data argument must be a bytes-like object, not {type(data).__name__!r}"
    with pytest.raises(TypeError, match=message):
        transport.sendto(data)
    assert transport.is_closing() == closed


@pytest.mark.parametrize("arguments", [(), (b"x", None, None)])
async def test_sendto_takes_data_and_an_address(endpoint, nobody, arguments):
    transport, _ = await endpoint(remote_addr=nobody)
    with pytest.raises(TypeError):
        transport.sendto(*arguments)
    with pytest.raises(TypeError):
        transport.sendto(b"x", address=nobody)


async def test_sendto_takes_keywords(loop, endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(local_addr=LOCAL)
    transport.sendto(data=b"one", addr=peer.getsockname())
    transport.sendto(b"two", addr=peer.getsockname())
    assert await drained(loop, peer, 2) == [b"one", b"two"]


async def test_sendto_sends_before_it_returns(endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(local_addr=LOCAL)
    for data in numbered(5):
        assert transport.sendto(data, peer.getsockname()) is None
        assert peer.recv(10) == data
    assert transport.get_write_buffer_size() == 0


async def test_the_remote_addr_may_be_named(endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(b"x", tuple(list(peer.getsockname())))
    assert peer.recv(10) == b"x"


@pytest.mark.parametrize("address", [("127.0.0.1", 9), ("localhost", 9), ["127.0.0.1", 9], (), "", 0, b"x"])
async def test_another_than_the_remote_addr_is_refused(endpoint, sockets, address):
    peer = sockets()
    transport, protocol = await endpoint(remote_addr=peer.getsockname())
    with pytest.raises(ValueError) as caught:
        transport.sendto(b"x", address)
    assert str(caught.value) == f"Invalid address: must be None or {peer.getsockname()}"
    transport.sendto(b"y", peer.getsockname())
    assert peer.recv(10) == b"y"
    assert protocol.calls == ["connection_made"]


async def test_the_remote_addr_of_ipv6_has_four_parts(endpoint, sockets):
    peer = sockets(("::1", 0))
    transport, _ = await endpoint(remote_addr=peer.getsockname()[:2])
    transport.sendto(b"x", peer.getsockname())
    assert peer.recv(10) == b"x"
    with pytest.raises(ValueError, match="Invalid address"):
        transport.sendto(b"x", peer.getsockname()[:2])


async def test_another_than_the_unix_remote_addr_is_refused(endpoint, sockets, folder):
    peer = sockets("peer")
    transport, _ = await endpoint(remote_addr="peer", family=socket.AF_UNIX)
    transport.sendto(b"x", "peer")
    assert peer.recv(10) == b"x"
    with pytest.raises(ValueError, match="Invalid address: must be None or peer"):
        transport.sendto(b"x", "other")


async def test_a_connected_socket_of_ours_sends_to_its_peer_whatever_the_address(endpoint, sockets):
    ours, peer, other = sockets(), sockets(), sockets()
    ours.connect(peer.getsockname())
    transport, protocol = await endpoint(sock=ours)
    transport.sendto(b"one")
    transport.sendto(b"two", other.getsockname())
    transport.sendto(b"three", "no address")
    assert [peer.recv(10) for _ in range(3)] == [b"one", b"two", b"three"]
    assert protocol.calls == ["connection_made"]


@pytest.mark.parametrize(("host", "largest"), [("127.0.0.1", LARGEST), ("::1", LARGEST + 20)])
async def test_the_largest_datagram_is_sent_and_received(endpoint, host, largest):
    one, first = await endpoint(local_addr=(host, 0))
    two, second = await endpoint(remote_addr=one.get_extra_info("sockname")[:2])
    data = random.Random(1).randbytes(largest)
    for _ in range(5):
        two.sendto(data)
        await first.received()
        assert first.datagrams.pop() == (data, two.get_extra_info("sockname"))
    assert second.errors == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("connected", [True, False])
async def test_a_datagram_that_is_too_large_is_an_error_and_the_transport_goes_on(endpoint, sockets, host, connected):
    peer = sockets((host, 0))
    family = peer.family
    address = peer.getsockname()
    remote = {"remote_addr": address[:2]} if connected else {}
    transport, protocol = await endpoint(family=family, **remote)
    transport.sendto(bytes(LARGEST + 21), address)
    (exc,) = protocol.errors  # inside sendto
    assert type(exc) is OSError
    assert exc.errno == errno.EMSGSIZE
    assert not transport.is_closing()
    transport.sendto(b"small", address)
    assert peer.recv(10) == b"small"
    assert protocol.calls == ["connection_made", "error_received"]


@with_empty_datagrams
@pytest.mark.parametrize("connected", [True, False])
async def test_an_empty_datagram_is_sent(endpoint, sockets, connected):
    peer = sockets()
    remote = {"remote_addr": peer.getsockname()} if connected else {"family": socket.AF_INET}
    transport, _ = await endpoint(**remote)
    for data in (b"", bytearray(), memoryview(b"")):
        transport.sendto(data, peer.getsockname())
        assert peer.recv(10) == b""


@with_empty_datagrams
async def test_two_endpoints_exchange_empty_datagrams(endpoint):
    one, first = await endpoint(local_addr=LOCAL)
    _, second = await endpoint(remote_addr=one.get_extra_info("sockname"))
    await converse(second, first, question=b"", answer=b"")


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="sent since 3.13")
async def test_an_empty_datagram_is_not_sent(endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(remote_addr=peer.getsockname())
    for data in (b"", bytearray(), memoryview(b"")):
        transport.sendto(data)
        with pytest.raises(BlockingIOError):
            peer.recv(10)


async def test_many_datagrams_are_sent_in_order(loop, endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(local_addr=LOCAL)
    for data in numbered(200):
        transport.sendto(data, peer.getsockname())
    assert await drained(loop, peer, 200) == numbered(200)


async def test_what_connection_made_sends_is_sent(loop, endpoint, sockets):
    class Protocol(Datagrams):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.sendto(b"hello")

    peer = sockets()
    await endpoint(Protocol(), remote_addr=peer.getsockname())
    assert peer.recv(10) == b"hello"


@pytest.mark.parametrize(
    ("method", "arguments"), [("write", [b"x"]), ("writelines", [[b"x"]]), ("write_eof", []), ("can_write_eof", [])]
)
async def test_an_endpoint_is_no_stream(endpoint, nobody, method, arguments):
    transport, _ = await endpoint(remote_addr=nobody)
    with pytest.raises(NotImplementedError):
        getattr(transport, method)(*arguments)
    assert not transport.is_closing()


# --- receiving ------------------------------------------------------------------------------------


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


# --- errors of the network ------------------------------------------------------------------------


async def test_a_datagram_to_nobody_is_an_error(endpoint, nobody):
    transport, protocol = await endpoint(remote_addr=nobody)
    transport.sendto(b"x")
    (exc,) = await protocol.failed()
    assert type(exc) is ConnectionRefusedError
    assert exc.errno == errno.ECONNREFUSED
    assert not transport.is_closing()
    assert protocol.calls == ["connection_made", "error_received"]


async def test_a_transport_that_was_refused_stays_usable(endpoint, sockets, nobody):
    transport, protocol = await endpoint(remote_addr=nobody)
    for count in range(1, 4):
        transport.sendto(b"refused")
        assert len(await protocol.failed(count)) == count
    peer = sockets(nobody)
    transport.sendto(b"question")
    assert peer.recvfrom(10) == (b"question", transport.get_extra_info("sockname"))
    for data in numbered(10):
        peer.sendto(data, transport.get_extra_info("sockname"))
    assert await protocol.received(10) == numbered(10)
    assert len(protocol.errors) == 3


async def test_a_refusal_is_told_inside_the_next_sendto_which_sends_nothing(loop, endpoint, sockets, nobody):
    transport, protocol = await endpoint(remote_addr=nobody)
    transport.sendto(b"refused")
    peer = sockets(nobody)
    transport.sendto(b"not sent")
    assert [type(exc) for exc in protocol.errors] == [ConnectionRefusedError]
    transport.sendto(b"sent")
    assert peer.recv(10) == b"sent"
    await settled(loop)
    assert protocol.calls == ["connection_made", "error_received"]


async def test_a_refusal_among_datagrams_loses_none_of_them(endpoint, sockets):
    peer = sockets()
    transport, protocol = await endpoint(remote_addr=peer.getsockname())
    address, us = peer.getsockname(), transport.get_extra_info("sockname")
    for data in numbered(6):
        peer.sendto(data, us)
    peer.close()
    transport.sendto(b"refused")
    again = sockets(address)
    for data in numbered(6, 6):
        again.sendto(data, us)
    assert await protocol.received(12) == numbered(12)
    assert [type(exc) for exc in await protocol.failed()] == [ConnectionRefusedError]


async def test_an_error_waits_for_a_paused_transport(loop, endpoint, nobody):
    transport, protocol = await endpoint(remote_addr=nobody)
    transport.pause_reading()
    transport.sendto(b"x")
    await settled(loop)
    assert protocol.errors == []
    transport.resume_reading()
    assert [type(exc) for exc in await protocol.failed()] == [ConnectionRefusedError]


PAUSED = """
    import asyncio, socket

    def refused():
        with socket.socket(type=socket.SOCK_DGRAM) as nobody:
            nobody.bind(("127.0.0.1", 0))
            address = nobody.getsockname()
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.connect(address)
        return sock, lambda: sock.send(b"x")

    def hung_up():
        sock, other = socket.socketpair(type=socket.SOCK_SEQPACKET)
        return sock, other.close

    async def main(kind):
        sock, fail = kind()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
        transport.pause_reading()
        fail()
        print("paused", flush=True)
        await asyncio.Event().wait()

    import sys
    loop = new_event_loop()
    loop.run_until_complete(main(globals()[sys.argv[1]]))
"""


@pytest.mark.parametrize("kind", ["refused", pytest.param("hung_up", marks=PACKETS)])
def test_an_error_of_a_paused_transport_does_not_keep_the_loop_busy(loop_name, kind):
    with start_child(loop_name, PAUSED, kind) as child:
        try:
            assert child.stdout.readline() == "paused\n"
            wait_until_idle(child.pid)  # or the limit for hangs is met
            assert child.poll() is None
        finally:
            child.kill()


async def test_without_a_connection_nobody_tells_that_nobody_is_there(loop, endpoint, sockets, nobody):
    transport, protocol = await endpoint(local_addr=LOCAL)
    transport.sendto(b"lost", nobody)
    await settled(loop)
    sockets().sendto(b"x", transport.get_extra_info("sockname"))
    assert await protocol.received() == [b"x"]
    assert protocol.errors == []


async def test_a_unix_peer_that_is_gone_is_an_error(endpoint, sockets, folder):
    peer = sockets("peer")
    transport, protocol = await endpoint(remote_addr="peer", family=socket.AF_UNIX)
    peer.close()
    for _ in range(3):
        transport.sendto(b"x")
    # The first one tells that the peer is gone; then there is none.
    assert [exc.errno for exc in protocol.errors] == [errno.ECONNREFUSED, errno.ENOTCONN, errno.ENOTCONN]
    assert not transport.is_closing()


async def test_error_received_may_send(endpoint, sockets, nobody):
    class Protocol(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            peers.append(sockets(nobody))
            self.transport.sendto(b"once more")

    peers = []
    transport, protocol = await endpoint(Protocol(), remote_addr=nobody)
    transport.sendto(b"refused")
    await protocol.failed()
    assert peers[0].recv(10) == b"once more"


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_error_received_may_end_the_transport(endpoint, nobody, end):
    class Protocol(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            getattr(self.transport, end)()

    transport, protocol = await endpoint(Protocol(), remote_addr=nobody)
    transport.sendto(b"refused")
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "error_received", "connection_lost"]


async def test_an_error_goes_to_the_protocol_that_is_there_then(endpoint, nobody):
    transport, old = await endpoint(remote_addr=nobody)
    transport.sendto(b"refused")
    new = Datagrams()
    transport.set_protocol(new)
    await new.failed()
    assert old.errors == []


# --- many in one go, and what happens between them ------------------------------------------------


async def test_many_datagrams_arrive_in_order(endpoint, sockets):
    transport, protocol = await endpoint(local_addr=LOCAL)
    peer = sockets()
    for data in numbered(200):
        peer.sendto(data, transport.get_extra_info("sockname"))
    await protocol.received(200)
    assert protocol.datagrams == [(data, peer.getsockname()) for data in numbered(200)]


async def test_many_senders_are_told_apart(endpoint, sockets):
    transport, protocol = await endpoint(local_addr=LOCAL)
    peers = [sockets() for _ in range(7)]
    numbers = random.Random(3)
    sent = [(data, numbers.choice(peers)) for data in numbered(200)]
    for data, peer in sent:
        peer.sendto(data, transport.get_extra_info("sockname"))
    await protocol.received(200)
    assert protocol.datagrams == [(data, peer.getsockname()) for data, peer in sent]


async def test_what_was_received_is_not_changed_by_what_comes_later(endpoint, sockets):
    transport, protocol = await endpoint(local_addr=LOCAL)
    peer = sockets()
    for start in range(0, 500, 50):
        for data in numbered(50, start):
            peer.sendto(data, transport.get_extra_info("sockname"))
        await protocol.received(start + 50)
    assert protocol.data_of_all == numbered(500)


# A loop may look for more datagrams again if the protocol takes its time.
@pytest.mark.parametrize("seconds", [0, 0.0002])
async def test_what_datagram_received_schedules_runs_before_the_next(loop, arriving, seconds):
    trace = []

    class Protocol(Datagrams):
        def datagram_received(self, data, address):
            trace.append(("datagram", data))
            loop.call_soon(trace.append, ("scheduled", data))
            loop.call_soon(self.note, "scheduled")
            super().datagram_received(data, address)
            if seconds:
                time.sleep(seconds)

    _, protocol, sent, _ = await arriving(Protocol())
    await protocol.until(lambda: protocol.calls.count("scheduled") == len(sent))
    assert trace == [(what, data) for data in sent for what in ("datagram", "scheduled")]


async def test_a_task_that_waits_for_each_datagram_sees_each_before_the_next(loop, arriving):
    class Protocol(Datagrams):
        waiter = None

        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            if self.waiter is not None:
                self.waiter.set_result(None)

    async def consume():
        while len(seen) < 10:
            protocol.waiter = loop.create_future()
            await protocol.waiter
            protocol.waiter = None
            seen.append(len(protocol.datagrams))
            time.sleep(0.0002)  # a loop may look for more datagrams again

    seen = []
    protocol = Protocol()
    consuming = loop.create_task(consume())
    await asyncio.sleep(0)
    await arriving(protocol)
    await consuming
    assert seen == list(range(1, 11))


@positions
async def test_pause_reading_in_the_middle_holds_the_rest_back(loop, arriving, at):
    protocol = Acting(at, lambda transport: transport.pause_reading())
    transport, _, sent, _ = await arriving(protocol)
    await protocol.received(at)
    await settled(loop)
    assert protocol.data_of_all == sent[:at]
    transport.resume_reading()
    assert await protocol.received(len(sent)) == sent
    await settled(loop)
    assert protocol.data_of_all == sent


@positions
async def test_a_pause_scheduled_in_the_middle_holds_the_rest_back(loop, arriving, at):
    protocol = Acting(at, lambda transport: loop.call_soon(transport.pause_reading))
    transport, _, sent, _ = await arriving(protocol)
    await protocol.received(at)
    await settled(loop)
    assert protocol.data_of_all == sent[:at]
    transport.resume_reading()
    assert await protocol.received(len(sent)) == sent


async def test_a_pause_at_each_datagram_loses_nothing(loop, arriving):
    class Protocol(Datagrams):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            self.transport.pause_reading()

    transport, protocol, sent, _ = await arriving(Protocol())
    for count in range(1, len(sent) + 1):
        await protocol.received(count)
        await polled(loop)
        assert protocol.data_of_all == sent[:count]
        transport.resume_reading()


async def test_a_pause_and_resume_in_one_call_changes_nothing(loop, arriving):
    trace = []

    class Protocol(Datagrams):
        def datagram_received(self, data, address):
            self.transport.pause_reading()
            self.transport.resume_reading()
            trace.append(("datagram", data))
            loop.call_soon(trace.append, ("scheduled", data))
            super().datagram_received(data, address)

    _, protocol, sent, _ = await arriving(Protocol())
    await protocol.received(len(sent))
    await settled(loop)
    assert trace == [(what, data) for data in sent for what in ("datagram", "scheduled")]


@positions
async def test_what_arrives_in_a_pause_comes_after_what_was_there(loop, arriving, at):
    protocol = Acting(at, lambda transport: transport.pause_reading())
    transport, _, sent, sender = await arriving(protocol)
    await protocol.received(at)
    await settled(loop)
    late = numbered(at, len(sent))
    for data in late:
        sender.send(data)
    await settled(loop)
    assert protocol.data_of_all == sent[:at]
    transport.resume_reading()
    assert await protocol.received(len(sent) + at) == sent + late


@positions
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_nothing_is_delivered_after_an_end_in_the_middle(loop, arriving, at, end):
    protocol = Acting(at, lambda transport: getattr(transport, end)())
    transport, _, sent, _ = await arriving(protocol)
    assert await protocol.lost is None
    await settled(loop)
    assert protocol.calls == ["connection_made"] + ["datagram_received"] * at + ["connection_lost"]
    assert protocol.data_of_all == sent[:at]


@positions
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_nothing_is_delivered_after_an_end_scheduled_in_the_middle(loop, arriving, at, end):
    protocol = Acting(at, lambda transport: loop.call_soon(getattr(transport, end)))
    transport, _, sent, _ = await arriving(protocol)
    assert await protocol.lost is None
    assert protocol.data_of_all == sent[:at]


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_nothing_is_delivered_after_the_end_of_a_paused_transport(loop, arriving, end):
    protocol = Acting(3, lambda transport: transport.pause_reading())
    transport, _, sent, _ = await arriving(protocol)
    await protocol.received(3)
    await settled(loop)
    getattr(transport, end)()
    transport.resume_reading()
    assert not transport.is_reading()
    assert await protocol.lost is None
    await settled(loop)
    assert protocol.data_of_all == sent[:3]


@positions
async def test_set_protocol_in_the_middle_takes_effect_at_once(arriving, at):
    new = Datagrams()
    old = Acting(at, lambda transport: transport.set_protocol(new))
    _, _, sent, _ = await arriving(old)
    await new.received(len(sent) - at)
    assert old.data_of_all == sent[:at]
    assert new.data_of_all == sent[at:]


async def test_a_protocol_may_be_set_for_each_datagram(arriving):
    class Protocol(Datagrams):
        def datagram_received(self, data, address):
            protocols.append(Protocol())
            self.transport.set_protocol(protocols[-1])
            protocols[-1].transport = self.transport
            super().datagram_received(data, address)

    protocols = [Protocol()]
    _, _, sent, _ = await arriving(protocols[0])
    for number, data in enumerate(sent):
        assert await protocols[number].received() == [data]
    assert all(len(protocol.datagrams) == 1 for protocol in protocols[:-1])


def test_each_run_that_is_stopped_by_a_datagram_delivers_one(loop, arriving):
    class Protocol(Datagrams):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            loop.stop()

    _, protocol, sent, sender = loop.run_until_complete(arriving(Protocol, now=False))
    send_each(sender, sent)
    delivered = []
    while len(protocol.datagrams) < len(sent):
        loop.run_forever()
        delivered.append(len(protocol.datagrams))
    assert delivered == list(range(1, len(sent) + 1))
    assert protocol.data_of_all == sent


@positions
def test_a_loop_stopped_in_the_middle_delivers_the_rest_when_it_runs_again(loop, arriving, at):
    _, protocol, sent, sender = loop.run_until_complete(arriving(lambda: Acting(at, lambda _: loop.stop()), now=False))
    send_each(sender, sent)
    loop.run_forever()
    assert protocol.data_of_all == sent[:at]
    assert loop.run_until_complete(protocol.received(len(sent))) == sent


@positions
def test_a_transport_closed_while_the_loop_is_stopped_delivers_no_more(loop, arriving, at):
    made = arriving(lambda: Acting(at, lambda _: loop.stop()), now=False)
    transport, protocol, sent, sender = loop.run_until_complete(made)
    send_each(sender, sent)
    loop.run_forever()
    transport.close()
    loop.run_until_complete(protocol.lost)
    assert protocol.data_of_all == sent[:at]


@positions
async def test_an_exception_in_the_middle_is_reported_and_the_rest_is_delivered(arriving, reports, at):
    def fail(transport):
        raise error

    error = ZeroDivisionError("the protocol's")
    protocol = Acting(at, fail)
    transport, _, sent, _ = await arriving(protocol)
    assert await protocol.received(len(sent)) == sent
    assert reports.take()["exception"] is error
    assert not transport.is_closing()


async def test_each_exception_is_reported_once(arriving, reports):
    class Protocol(Datagrams):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            raise LookupError(data)

    _, protocol, sent, _ = await arriving(Protocol())
    assert await protocol.received(len(sent)) == sent
    await asyncio.sleep(0)
    assert [context["exception"].args for context in reports] == [(data,) for data in sent]
    assert all(context["message"].startswith("Exception in callback ") for context in reports)
    reports.clear()


async def test_an_exception_that_comes_with_a_pause_holds_the_rest_back(loop, arriving, reports):
    def pause_and_fail(transport):
        transport.pause_reading()
        raise ZeroDivisionError

    protocol = Acting(4, pause_and_fail)
    transport, _, sent, _ = await arriving(protocol)
    await protocol.received(4)
    await settled(loop)
    assert protocol.data_of_all == sent[:4]
    assert type(reports.take()["exception"]) is ZeroDivisionError
    transport.resume_reading()
    assert await protocol.received(len(sent)) == sent


@positions
@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_middle_leaves_the_loop_and_loses_nothing(loop, arriving, at, exception):
    def interrupt(transport):
        raise exception

    transport, protocol, sent, sender = loop.run_until_complete(arriving(lambda: Acting(at, interrupt), now=False))
    send_each(sender, sent)
    with pytest.raises(exception):
        loop.run_forever()
    assert protocol.data_of_all == sent[:at]
    assert loop.run_until_complete(protocol.received(len(sent))) == sent
    assert not transport.is_closing()


async def test_an_echo_answers_every_datagram(loop, endpoint, sockets):
    class Echo(Datagrams):
        def datagram_received(self, data, address):
            self.transport.sendto(data, address)

    transport, _ = await endpoint(Echo(), local_addr=LOCAL)
    peers = [sockets() for _ in range(4)]
    for data, peer in zip(numbered(200), itertools.cycle(peers)):
        peer.sendto(data, transport.get_extra_info("sockname"))
    for number, peer in enumerate(peers):
        assert await drained(loop, peer, 50) == numbered(200)[number::4]


async def test_two_busy_endpoints_are_served_in_turn(endpoint, sockets):
    order = []

    class Protocol(Datagrams):
        def datagram_received(self, data, address):
            order.append(self)
            super().datagram_received(data, address)

    one, first = await endpoint(Protocol(), local_addr=LOCAL)
    two, second = await endpoint(Protocol(), local_addr=LOCAL)
    for transport in (one, two):
        for data in numbered(100):
            sockets().sendto(data, transport.get_extra_info("sockname"))
    await first.received(100)
    await second.received(100)
    lead = itertools.accumulate(1 if protocol is first else -1 for protocol in order)
    assert max(map(abs, lead)) == 1


class Endless(Datagrams):
    """Sends each datagram to itself again, up to a number that a fair loop never comes to."""

    def datagram_received(self, data, address):
        super().datagram_received(data, address)
        if len(self.datagrams) < 20_000:
            self.transport.sendto(data, address)


async def test_busy_endpoints_do_not_keep_others_waiting(loop, endpoint):
    busy = []
    for _ in range(2):
        transport, protocol = await endpoint(Endless(), local_addr=LOCAL)
        busy.append(protocol)
        for data in numbered(50):
            transport.sendto(data, transport.get_extra_info("sockname"))
    for protocol in busy:
        await protocol.received(200)
    for _ in range(100):
        await asyncio.sleep(0)
    timer = loop.create_future()
    loop.call_later(0.001, timer.set_result, None)
    await timer
    await polled(loop)
    assert all(len(protocol.datagrams) < 20_000 for protocol in busy)


async def test_callbacks_that_never_end_do_not_keep_datagrams_waiting(loop, arriving):
    def again():
        nonlocal steps
        steps += 1
        if len(protocol.datagrams) < len(sent) and steps < 100_000:
            loop.call_soon(again)
        else:
            protocol.note("done")

    steps = 0
    transport, protocol, sent, _ = await arriving(Datagrams())
    loop.call_soon(again)
    await protocol.called("done")
    assert protocol.data_of_all == sent


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_one_endpoint_may_end_another(loop, endpoint, sockets, end):
    one, first = await endpoint(local_addr=LOCAL)
    two, second = await endpoint(local_addr=LOCAL)
    first.datagram_received = lambda data, address: getattr(two, end)()
    second.datagram_received = lambda data, address: getattr(one, end)()
    for transport in (one, two):
        for data in numbered(5):
            sockets().sendto(data, transport.get_extra_info("sockname"))
    # Whichever comes first ends the other, whose datagrams are never delivered.
    done, _ = await asyncio.wait([first.lost, second.lost], return_when=asyncio.FIRST_COMPLETED)
    await settled(loop)
    assert len(done) == 1
    assert sorted([one.is_closing(), two.is_closing()]) == [False, True]


@positions
@pytest.mark.parametrize("end", ["close", "pause_reading"])
async def test_what_was_not_delivered_is_left_in_the_socket(loop, loop_name, endpoint, datagram_pair, at, end):
    if loop_name == "velodrome" and at > 1:
        pytest.xfail("several are received at once, see docs/differences.md")
    ours, peer = datagram_pair
    with ours.dup() as shared:
        protocol = Acting(at, lambda transport: getattr(transport, end)())
        await endpoint(protocol, sock=ours)
        send_each(peer, numbered(10))
        await protocol.received(at)
        await settled(loop)
        assert shared.recv(10) == b"%05d" % at


@pytest.mark.parametrize("seed", range(8))
async def test_a_wayward_receiver_loses_nothing(loop, endpoint, sockets, seed):
    numbers = random.Random(seed)
    received, scheduled, mistakes = [], [], []

    class Protocol(Datagrams):
        def datagram_received(self, data, address):
            # What the datagram before this one scheduled must have run.
            mistakes.extend(scheduled if transport.is_reading() else ["not reading"])
            scheduled.append(data)
            loop.call_soon(scheduled.clear)
            received.append((data, address))
            match numbers.randrange(12):
                case 0:
                    transport.pause_reading()
                case 1:
                    transport.pause_reading()
                    loop.call_soon(transport.resume_reading)
                case 2:
                    loop.call_soon(transport.pause_reading)
                case 3:
                    transport.set_protocol(numbers.choice(protocols))
                case 4:
                    transport.pause_reading()
                    transport.resume_reading()
                case 5:
                    time.sleep(0.0001)
            first.note("datagram_received")

    protocols = [first := Protocol(), Protocol(), Protocol()]
    transport, _ = await endpoint(first, local_addr=LOCAL)
    peers = [sockets() for _ in range(4)]
    sent = []
    for _ in range(40):
        for _ in range(numbers.randrange(12)):
            data, peer = numbers.randbytes(numbers.randrange(30)), numbers.choice(peers)
            peer.sendto(data, transport.get_extra_info("sockname"))
            sent.append((data, peer.getsockname()))
        match numbers.randrange(4):
            case 0:
                await asyncio.sleep(0)
            case 1:
                await polled(loop)
            case 2:
                transport.pause_reading()
        if numbers.randrange(3) == 0:
            transport.resume_reading()
    while len(received) < len(sent):
        transport.resume_reading()
        await asyncio.sleep(0)
    transport.resume_reading()
    await settled(loop)
    assert received == sent
    assert mistakes == []
    transport.set_protocol(first)


# --- flow control ---------------------------------------------------------------------------------

SIZE = 1000


def payload(number):
    return b"%06d" % number + bytes(SIZE - 6)


class Blocked:
    """An endpoint whose datagrams a Unix socket has stopped to take: the last of those sent waits."""

    def __init__(self, transport, protocol, peer, address):
        self.transport = transport
        self.protocol = protocol
        self.peer = peer
        self.address = address
        self.sent = []
        while transport.get_write_buffer_size() == 0:
            self.send()
            assert not transport.is_closing()
        protocol.calls.clear()

    def send(self, count=1):
        for _ in range(count):
            self.sent.append(payload(len(self.sent)))
            self.transport.sendto(self.sent[-1], self.address)


@pytest.fixture(params=["connected", "addressed", "addressed in letters of any kind"])
def blocked(request, endpoint, sockets, folder):
    """Makes a Blocked of a protocol, after `prepare(transport)`."""

    async def connect(protocol=Datagrams, prepare=lambda transport: None):
        name = "zwölf" if "letters" in request.param else "peer"
        peer = sockets(name)
        remote = {"remote_addr": name} if request.param == "connected" else {}
        transport, protocol = await endpoint(protocol, family=socket.AF_UNIX, **remote)
        prepare(transport)
        return Blocked(transport, protocol, peer, None if remote else name)

    return connect


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


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_connection_lost_is_called_later_and_once(loop, endpoint, sockets, end):
    transport, protocol = await endpoint(local_addr=LOCAL)
    getattr(transport, end)()
    assert transport.is_closing()
    assert protocol.calls == ["connection_made"]
    for method in ("close", "abort", "close"):
        getattr(transport, method)()
    assert protocol.calls == ["connection_made"]
    assert await protocol.lost is None
    await settled(loop)
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_the_socket_is_closed_after_connection_lost(endpoint):
    class Protocol(Datagrams):
        def connection_lost(self, exc):
            numbers.append(self.transport.get_extra_info("socket").fileno())
            super().connection_lost(exc)

    numbers = []
    transport, protocol = await endpoint(Protocol(), local_addr=LOCAL)
    sock = transport.get_extra_info("socket")
    number = sock.fileno()
    transport.close()
    await protocol.lost
    assert numbers == [number]
    await asyncio.sleep(0)
    assert sock.fileno() == -1


async def test_nothing_is_received_after_close(loop, endpoint, sockets):
    transport, protocol = await endpoint(local_addr=LOCAL)
    sockets().sendto(b"x", transport.get_extra_info("sockname"))
    transport.close()
    await protocol.lost
    await settled(loop)
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_a_closed_transport_answers_harmlessly(endpoint):
    transport, protocol = await endpoint(local_addr=LOCAL)
    sockname = transport.get_extra_info("sockname")
    transport.close()
    await protocol.lost
    assert transport.is_closing()
    assert not transport.is_reading()
    assert transport.get_write_buffer_size() == 0
    for method in ("close", "abort", "pause_reading", "resume_reading"):
        getattr(transport, method)()
    await asyncio.sleep(0)
    assert transport.get_protocol() is None
    assert transport.get_extra_info("sockname") == sockname


async def test_sending_to_the_remote_addr_after_close_is_ignored(loop, endpoint, sockets):
    peer = sockets()
    transport, protocol = await endpoint(remote_addr=peer.getsockname())
    transport.sendto(b"before")
    transport.close()
    transport.sendto(b"after")
    await protocol.lost
    transport.sendto(b"long after", peer.getsockname())
    with pytest.raises(ValueError, match="Invalid address"):
        transport.sendto(b"x", LOCAL)
    assert peer.recv(10) == b"before"
    with pytest.raises(BlockingIOError):
        peer.recv(10)


async def test_sending_again_and_again_after_close_is_logged(endpoint, sockets, caplog):
    transport, protocol = await endpoint(remote_addr=sockets().getsockname())
    transport.close()
    await protocol.lost
    for _ in range(4):
        transport.sendto(b"x")
    assert caplog.records == []
    for _ in range(3):
        transport.sendto(b"x")
    messages = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert messages == [(logging.WARNING, "socket.send() raised exception.")] * 3


async def test_what_is_sent_to_an_address_between_close_and_connection_lost_is_sent(endpoint, sockets):
    peer = sockets()
    transport, protocol = await endpoint(local_addr=LOCAL)
    transport.close()
    transport.sendto(b"late", peer.getsockname())
    assert peer.recv(10) == b"late"
    assert await protocol.lost is None


async def test_a_user_may_close_the_socket_under_the_transport(endpoint, sockets):
    sock = sockets()
    transport, protocol = await endpoint(sock=sock)
    sock.close()
    transport.close()
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "connection_lost"]


@pytest.mark.differs("the socket is closed at once and fails with EBADF")
async def test_a_socket_that_the_user_closed_is_open_until_the_transport_closes_it(endpoint, sockets):
    sock, peer = sockets(), sockets()
    transport, protocol = await endpoint(sock=sock)
    address = transport.get_extra_info("sockname")
    sock.close()
    transport.sendto(b"out", peer.getsockname())
    assert protocol.errors == []
    assert peer.recvfrom(10) == (b"out", address)
    peer.sendto(b"in", address)
    assert await protocol.received() == [b"in"]


async def test_a_socket_may_be_used_again_after_the_transport(loop, endpoint, sockets):
    ours, peer = sockets(), sockets()
    with ours.dup() as again:
        transport, protocol = await endpoint(sock=ours)
        transport.close()
        await protocol.lost
        transport, protocol = await endpoint(sock=again)
        peer.sendto(b"x", again.getsockname())
        assert await protocol.received() == [b"x"]
        transport.close()
        await protocol.lost


async def test_the_number_of_a_closed_endpoint_may_be_watched_again(loop, endpoint, socket_pair):
    transport, protocol = await endpoint(local_addr=LOCAL)
    number = transport.get_extra_info("socket").fileno()
    transport.close()
    await protocol.lost
    await asyncio.sleep(0)
    one, other = socket_pair
    assert fcntl.fcntl(one, fcntl.F_DUPFD, number) == number
    readable = loop.create_future()
    loop.add_reader(number, readable.set_result, None)
    other.send(b"x")
    await readable
    loop.remove_reader(number)
    os.close(number)


# --- protocols that raise -------------------------------------------------------------------------


async def test_connection_made_that_raises_is_reported_and_the_transport_stays(endpoint, reports, sockets):
    transport, protocol = await endpoint(raising("connection_made"), local_addr=LOCAL)
    assert reports.take()["exception"] is protocol.error
    sockets().sendto(b"x", transport.get_extra_info("sockname"))
    assert await protocol.received() == [b"x"]


async def test_connection_lost_that_raises_is_reported_and_the_socket_is_closed(endpoint, reports):
    transport, protocol = await endpoint(raising("connection_lost"), local_addr=LOCAL)
    sock = transport.get_extra_info("socket")
    transport.close()
    await protocol.lost
    await asyncio.sleep(0)
    assert sock.fileno() == -1
    assert reports.take()["exception"] is protocol.error
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_error_received_that_raises_is_reported_and_the_transport_stays(endpoint, reports, sockets, nobody):
    transport, protocol = await endpoint(raising("error_received"), remote_addr=nobody)
    transport.sendto(b"refused")
    await protocol.failed()
    await asyncio.sleep(0)
    assert reports.take()["exception"] is protocol.error
    peer = sockets(nobody)
    transport.sendto(b"x")
    assert peer.recv(10) == b"x"


async def test_error_received_that_raises_inside_sendto_raises_there(endpoint, folder):
    transport, protocol = await endpoint(raising("error_received"), family=socket.AF_UNIX)
    with pytest.raises(ZeroDivisionError) as caught:
        transport.sendto(b"x", "missing")
    assert caught.value is protocol.error
    assert not transport.is_closing()


async def test_error_received_that_raises_does_not_keep_what_waits(loop, blocked, reports):
    it = await blocked(raising("error_received"))
    it.transport.sendto(bytes(1 << 23), it.address)
    it.send(3)
    assert await drained(loop, it.peer, len(it.sent)) == it.sent
    assert reports.take()["exception"] is it.protocol.error


async def test_pause_writing_that_raises_is_reported_and_the_transport_stays(loop, blocked, reports):
    it = await blocked(raising("pause_writing"))
    it.transport.set_write_buffer_limits(high=0)
    it.send(3)
    context = reports.take()
    assert context["message"] == "protocol.pause_writing() failed"
    assert context["exception"] is it.protocol.error
    assert context["transport"] is it.transport
    assert context["protocol"] is it.protocol
    assert await drained(loop, it.peer, len(it.sent)) == it.sent
    await it.protocol.called("resume_writing")
    assert it.protocol.calls == ["pause_writing", "resume_writing"]


async def test_resume_writing_that_raises_is_reported_and_the_transport_stays(loop, blocked, reports):
    it = await blocked(raising("resume_writing"))
    it.transport.set_write_buffer_limits(high=0)
    assert await drained(loop, it.peer, len(it.sent)) == it.sent
    await it.protocol.called("resume_writing")
    await asyncio.sleep(0)
    context = reports.take()
    assert context["message"] == "protocol.resume_writing() failed"
    assert context["exception"] is it.protocol.error
    assert context["transport"] is it.transport
    assert context["protocol"] is it.protocol
    it.transport.sendto(b"x", it.address)
    assert it.peer.recv(10) == b"x"


async def test_resume_writing_that_raises_does_not_keep_a_closing_transport_open(loop, blocked, reports):
    it = await blocked(raising("resume_writing"))
    it.transport.set_write_buffer_limits(high=0)
    it.transport.close()
    assert await drained(loop, it.peer, len(it.sent)) == it.sent
    assert await it.protocol.lost is None
    assert reports.take()["exception"] is it.protocol.error


async def test_a_protocol_without_the_callbacks_is_reported(loop, reports, sockets):
    class Bare:
        def __init__(self):
            self.lost = loop.create_future()

        def connection_made(self, transport):
            pass

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    peer = sockets()
    transport, protocol = await loop.create_datagram_endpoint(Bare, remote_addr=peer.getsockname())
    peer.sendto(b"x", transport.get_extra_info("sockname"))
    await settled(loop)
    assert type(reports.take()["exception"]) is AttributeError
    with pytest.raises(AttributeError):
        transport.sendto(bytes(LARGEST + 1))
    assert not transport.is_closing()
    transport.close()
    assert await protocol.lost is None


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_error_received_leaves_the_loop(loop, endpoint, nobody, exception):
    class Protocol(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            raise exception

    transport, protocol = loop.run_until_complete(endpoint(Protocol, remote_addr=nobody))
    transport.sendto(b"refused")
    with pytest.raises(exception):
        loop.run_forever()
    assert len(protocol.errors) == 1
    assert not transport.is_closing()


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_pause_writing_is_raised_by_sendto(loop, blocked, exception):
    class Protocol(Datagrams):
        def pause_writing(self):
            super().pause_writing()
            if self.calls.count("pause_writing") == 1:
                raise exception

    def prepare(transport):
        transport.set_write_buffer_limits(high=2 * SIZE)

    it = loop.run_until_complete(blocked(Protocol, prepare))
    with pytest.raises(exception):
        it.send(2)
    assert loop.run_until_complete(drained(loop, it.peer, len(it.sent))) == it.sent
    loop.run_until_complete(it.protocol.called("resume_writing"))
    assert it.protocol.calls == ["pause_writing", "resume_writing"]


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_resume_writing_leaves_the_loop_and_a_closing_transport_ends(loop, blocked, exception):
    class Protocol(Datagrams):
        def resume_writing(self):
            super().resume_writing()
            raise exception

    it = loop.run_until_complete(blocked(Protocol))
    it.transport.set_write_buffer_limits(high=0)
    it.transport.close()
    received = [it.peer.recv(SIZE) for _ in it.sent[1:]]
    with pytest.raises(exception):
        loop.run_forever()
    assert received + [it.peer.recv(SIZE)] == it.sent
    assert loop.run_until_complete(it.protocol.lost) is None
    assert it.protocol.calls == ["pause_writing", "resume_writing", "connection_lost"]


# --- what a transport is and knows ----------------------------------------------------------------


async def test_an_endpoint_is_an_asyncio_transport(endpoint):
    transport, protocol = await endpoint(local_addr=LOCAL)
    assert isinstance(transport, asyncio.Transport)
    assert transport.get_protocol() is protocol
    assert not transport.is_closing()
    assert transport.is_reading()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="since 3.12")
async def test_an_endpoint_is_an_asyncio_datagram_transport(endpoint):
    transport, _ = await endpoint(local_addr=LOCAL)
    assert isinstance(transport, asyncio.DatagramTransport)
    assert issubclass(transport.__class__, asyncio.DatagramTransport)


async def test_extra_info_has_the_addresses(endpoint, sockets):
    peer = sockets()
    transport, _ = await endpoint(local_addr=LOCAL, remote_addr=peer.getsockname())
    sock = transport.get_extra_info("socket")
    assert transport.get_extra_info("sockname") == sock.getsockname()
    assert transport.get_extra_info("peername") == peer.getsockname()


async def test_extra_info_of_an_endpoint_without_a_peer(endpoint):
    transport, _ = await endpoint(local_addr=LOCAL)
    assert transport.get_extra_info("peername") is None
    assert transport.get_extra_info("peername", "default") is None


async def test_extra_info_of_unix_has_the_paths(endpoint, sockets, folder):
    sockets("peer")
    transport, _ = await endpoint(local_addr="ours", remote_addr="peer", family=socket.AF_UNIX)
    assert transport.get_extra_info("sockname") == "ours"
    assert transport.get_extra_info("peername") == "peer"


async def test_extra_info_has_a_socket_that_cannot_read_or_write(endpoint):
    transport, _ = await endpoint(local_addr=LOCAL)
    sock = transport.get_extra_info("socket")
    assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
    assert not any(hasattr(sock, method) for method in ("recv", "recvfrom", "send", "sendto", "close"))


async def test_extra_info_that_is_not_there_is_the_default(endpoint):
    transport, _ = await endpoint(local_addr=LOCAL)
    assert transport.get_extra_info("nothing") is None
    assert transport.get_extra_info("nothing", 5) == 5
    assert transport.get_extra_info("nothing", default=5) == 5


async def test_repr_shows_the_state(endpoint):
    transport, protocol = await endpoint(local_addr=LOCAL)
    assert f"fd={transport.get_extra_info('socket').fileno()} " in repr(transport)
    assert "clos" not in repr(transport)
    transport.close()
    assert "closing" in repr(transport)
    await protocol.lost
    await asyncio.sleep(0)
    assert "closed" in repr(transport)


async def test_endpoints_work_in_debug_mode(loop, endpoint, sockets, caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    loop.set_debug(True)
    transport, protocol = await endpoint(local_addr=LOCAL)
    for data in numbered(5):
        sockets().sendto(data, transport.get_extra_info("sockname"))
    assert await protocol.received(5) == numbered(5)
    transport.pause_reading()
    transport.resume_reading()
    messages = [record.getMessage() for record in caplog.records]
    assert [message for message in messages if message.endswith("s reading")] == [
        f"{transport!r} resumes reading".replace("resumes", does) for does in ("pauses", "resumes")
    ]


# --- lifetimes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "abort", "error"])
def test_a_closed_endpoint_is_freed(loop, sockets, end):
    async def main():
        peer = sockets()
        transport, protocol = await loop.create_datagram_endpoint(Datagrams, local_addr=LOCAL)
        for data in numbered(10):
            peer.sendto(data, transport.get_extra_info("sockname"))
        await protocol.received(10 if end == "close" else 3)
        transport.sendto(b"x", protocol.datagrams[0][1])
        if end == "error":
            transport.sendto(b"x", None)
        else:
            getattr(transport, end)()
        await protocol.lost
        await asyncio.sleep(0)
        return weakref.ref(transport), weakref.ref(protocol)

    loop.set_exception_handler(lambda loop, context: None)
    assert gone(*loop.run_until_complete(main()))


def test_an_endpoint_with_datagrams_that_wait_is_freed_after_abort(loop, sockets, folder):
    async def main():
        transport, protocol = await loop.create_datagram_endpoint(
            Datagrams, remote_addr="peer", family=socket.AF_UNIX
        )
        Blocked(transport, protocol, peer, None)
        transport.abort()
        await protocol.lost
        await asyncio.sleep(0)
        return weakref.ref(transport), weakref.ref(protocol)

    peer = sockets("peer")
    assert gone(*loop.run_until_complete(main()))


async def test_a_protocol_that_was_replaced_is_freed(endpoint, sockets):
    transport, _ = await endpoint(local_addr=LOCAL)
    old, new = Datagrams(), Datagrams()
    watched = weakref.ref(old)
    transport.set_protocol(old)
    sockets().sendto(b"x", transport.get_extra_info("sockname"))
    await old.received()
    transport.set_protocol(new)
    del old
    assert gone(watched)


async def test_an_endpoint_that_nobody_holds_stays_open(loop, sockets):
    protocol = Datagrams()
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=LOCAL)
    address = transport.get_extra_info("sockname")
    watched = weakref.ref(transport)
    del transport, protocol.transport, protocol.made
    gc.collect()
    sockets().sendto(b"x", address)
    assert await protocol.received() == [b"x"]
    watched().close()
    await protocol.lost


def test_an_open_endpoint_of_a_closed_loop_is_freed_with_a_warning(new_loop):
    loop = new_loop()
    transport, protocol = loop.run_until_complete(loop.create_datagram_endpoint(Datagrams, local_addr=LOCAL))
    loop.close()
    watched = weakref.ref(transport), weakref.ref(protocol)
    with warning_texts() as texts:
        del transport, protocol, loop
        assert gone(*watched)
    assert [text.partition(" <")[0] for text in texts if "transport" in text] == ["unclosed transport"]
