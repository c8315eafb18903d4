"""Datagram protocols that raise: it is reported, and the transport stays as usable as it was."""

import asyncio
import socket

import pytest
from datagram_checker import LARGEST, LOCAL, SIZE, Datagrams, drained, settled


def raising(method):
    """A protocol whose `method` does what it does and then raises the protocol's `error`."""

    def call(self, *args):
        getattr(Datagrams, method)(self, *args)
        raise self.error

    return type("Raising", (Datagrams,), {method: call, "error": ZeroDivisionError("the protocol's")})()


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
