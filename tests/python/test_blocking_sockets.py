"""A socket that is set to blocking holds up nobody: what would block waits in the loop.

In children: a loop that is held up would keep the lock that other threads, and the test's own timeout, need.
"""

import pytest
from support import run_child

PROGRAM = """
    import asyncio, os, socket, sys

    async def receive(loop, ours, peer):
        waiting = loop.create_task(loop.sock_recv(ours, 100))
        await asyncio.sleep(0.001)
        peer.send(b"data")
        assert await waiting == b"data"

    async def receive_into(loop, ours, peer):
        buffer = bytearray(100)
        waiting = loop.create_task(loop.sock_recv_into(ours, buffer))
        await asyncio.sleep(0.001)
        peer.send(b"data")
        assert await waiting == 4
        assert buffer.startswith(b"data")

    async def send_all(loop, ours, peer):
        waiting = loop.create_task(loop.sock_sendall(ours, b"x" * 5_000_000))
        await asyncio.sleep(0.001)
        received = 0
        while received < 5_000_000:
            received += len(await loop.sock_recv(peer, 1_000_000))
        await waiting

    async def write(loop, ours, peer):
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        # A child that inherits the descriptor can do so, too.
        os.set_blocking(transport.get_extra_info("socket").fileno(), True)
        for _ in range(50):
            transport.write(b"x" * 100_000)
        received = 0
        while received < 5_000_000:
            received += len(await loop.sock_recv(peer, 1_000_000))
        transport.abort()

    async def send_to(loop, ours, peer):
        ours.close(), peer.close()
        ours, peer = socket.socketpair(type=socket.SOCK_DGRAM)
        peer.setblocking(False)
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=ours)
        os.set_blocking(transport.get_extra_info("socket").fileno(), True)
        for _ in range(1000):
            transport.sendto(b"datagram")
        for _ in range(1000):
            assert await loop.sock_recv(peer, 100) == b"datagram"
        transport.close()
        peer.close()

    async def main():
        ours, peer = socket.socketpair()
        ours.setblocking(True)
        peer.setblocking(False)
        with ours, peer:
            await globals()[sys.argv[1]](asyncio.get_running_loop(), ours, peer)
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
"""


@pytest.mark.parametrize("call", ["receive", "receive_into", "send_all", "write", "send_to"])
def test_a_call_that_would_block_waits_in_the_loop(loop_name, call):
    run_child(loop_name, PROGRAM, call)
