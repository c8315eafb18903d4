"""`create_datagram_endpoint`: its options, and what the transport that it makes is and knows."""

import asyncio
import errno
import logging
import socket
import sys

import pytest
from datagram_checker import LOCAL, Datagrams, numbered, settled

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
