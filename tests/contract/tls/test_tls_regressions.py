"""What once went wrong, here or in asyncio."""

import asyncio
import socket
import ssl
import struct

import pytest
from checker import LARGE, SMALL_BUFFER, Recorder
from tls_checker import TlsPeer, Wire

LINGER_NOT = struct.pack("ii", 1, 0)  # close() resets the connection


@pytest.mark.differs("the client's last flight waits until it writes", run=False)
async def test_a_pause_in_connection_made_does_not_hold_up_the_handshake(loop, socket_pair, certificates):
    class Paused(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    one, other = socket_pair
    peer = TlsPeer(Wire(loop, other), certificates.server_context(), server_side=True)
    (transport, protocol), _ = await asyncio.gather(
        loop.create_connection(Paused, sock=one, ssl=certificates.client_context(), server_hostname="localhost"),
        peer.handshake(),
    )
    transport.abort()
    await protocol.lost


@pytest.mark.differs("connection_lost is not called", run=False)
async def test_a_protocol_hears_of_a_connection_that_is_lost_in_the_middle_of_start_tls(loop, tcp_pair, certificates):
    one, other = tcp_pair
    transport, protocol = await loop.create_connection(Recorder, sock=one)
    upgrade = loop.create_task(
        loop.start_tls(transport, protocol, certificates.client_context(), server_hostname="localhost")
    )
    assert await loop.sock_recv(other, 5)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    other.close()
    with pytest.raises(ConnectionResetError):
        await upgrade
    assert isinstance(await protocol.lost, ConnectionResetError)


@pytest.mark.differs("the alert is dropped with the connection")
async def test_a_client_tells_the_server_why_it_refuses_it(loop, socket_pair, certificates):
    one, other = socket_pair
    peer = TlsPeer(Wire(loop, other), certificates.server_context(), server_side=True)
    refusal, alert = await asyncio.gather(
        loop.create_connection(Recorder, sock=one, ssl=ssl.create_default_context(), server_hostname="localhost"),
        peer.handshake(),
        return_exceptions=True,
    )
    assert isinstance(refusal, ssl.SSLCertVerificationError)
    assert alert.reason.endswith("ALERT_UNKNOWN_CA")


@pytest.mark.parametrize("end", ["close_notify", "end of file"])
async def test_a_peer_that_has_ended_may_take_longer_than_the_shutdown_to_read_what_is_left(loop, tls_stream, end):
    transport, protocol, peer = await tls_stream(Recorder(), receive_buffer=SMALL_BUFFER, ssl_shutdown_timeout=0.02)
    transport.write(LARGE)
    if end == "close_notify":
        await peer.close_notify()
    else:
        peer.sock.shutdown(socket.SHUT_WR)
    await asyncio.sleep(0.1)
    assert not protocol.lost.done()
    assert await peer.receive_exactly(len(LARGE)) == LARGE
    assert await protocol.lost is None
