"""Errors of the network: `error_received` hears of them, and the transport goes on."""

import errno
import socket

import pytest
from datagram_checker import LOCAL, PACKETS, Datagrams, numbered, settled
from support import start_child, wait_until_idle


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
