"""Datagram endpoints that are done with are freed; open ones live without anybody who holds them."""

import asyncio
import gc
import socket
import weakref

import pytest
from datagram_checker import LOCAL, Blocked, Datagrams, numbered
from support import gone, warning_texts


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
