"""Where many callbacks of a batch have written, those of the next one send together."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
import velodrome

MANY = 16
CALLBACKS_HELD = 128


class Connections:
    """As many, each a transport and the socket at its other end."""

    def __init__(self, loop, transports, peers):
        self.loop = loop
        self.pairs = list(zip(transports, peers, strict=True))

    async def batch(self, writers, seconds=0.0):
        """Has so many of them write in one batch. What had arrived when each had written, and what is there then."""
        seen = []

        def write(transport, peer):
            transport.write(b"x")
            seen.append(received(peer))
            time.sleep(seconds)

        for transport, peer in self.pairs[:writers]:
            self.loop.call_soon(write, transport, peer)
        over = self.loop.create_future()
        self.loop.call_soon(over.set_result, None)
        await over
        return seen, [already + received(peer) for already, (_, peer) in zip(seen, self.pairs, strict=False)]


def received(peer):
    with contextlib.suppress(BlockingIOError):
        return peer.recv(100)
    return b""


@contextlib.asynccontextmanager
async def connections(count):
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(count)]
    for pair in pairs:
        for sock in pair:
            sock.setblocking(False)
    transports = [(await loop.create_connection(asyncio.Protocol, sock=ours))[0] for ours, _ in pairs]
    try:
        yield Connections(loop, transports, [peer for _, peer in pairs])
    finally:
        for transport, (_, peer) in zip(transports, pairs, strict=True):
            transport.abort()
            peer.close()
        await asyncio.sleep(0)


async def sooner_or_later(attempt, expected):
    """Until it gives that. On a machine that is busy with something else, quick callbacks may seem to be slow."""
    for _ in range(1000):
        got = await attempt()
        if got == expected:
            return
    assert got == expected


def test_what_many_write_goes_out_at_the_end_of_the_batch():
    async def main():
        async with connections(MANY) as many:
            at_once, held = [b"x"] * MANY, [b""] * MANY
            assert await many.batch(MANY) == (at_once, at_once)
            await sooner_or_later(lambda: many.batch(MANY), (held, at_once))

            async def behind_batches_without_writes():
                await many.batch(MANY)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                return await many.batch(MANY)

            await sooner_or_later(behind_batches_without_writes, (held, at_once))

    velodrome.run(main())


def test_few_send_at_once():
    async def main():
        async with connections(MANY) as many:
            for _ in range(3):
                assert await many.batch(MANY - 1) == ([b"x"] * (MANY - 1),) * 2

            async def one_behind_many():
                await many.batch(MANY)
                return await many.batch(1)

            await sooner_or_later(one_behind_many, ([b""], [b"x"]))
            assert await many.batch(1) == ([b"x"], [b"x"])

    velodrome.run(main())


def test_slow_callbacks_send_at_once():
    async def main():
        async with connections(MANY) as many:
            for _ in range(3):
                assert (await many.batch(MANY, seconds=0.001))[0] == [b"x"] * MANY

    velodrome.run(main())


def test_what_is_held_waits_for_so_many_callbacks_at_most():
    async def main():
        async with connections(CALLBACKS_HELD + 10) as many:

            async def behind_so_many():
                await many.batch(MANY)
                seen = []
                for transport, _ in many.pairs:
                    many.loop.call_soon(transport.write, b"x")
                many.loop.call_soon(lambda: seen.extend(received(peer) for _, peer in many.pairs))
                over = many.loop.create_future()
                many.loop.call_soon(over.set_result, None)
                await over
                return seen, [received(peer) for _, peer in many.pairs]

            # The last of so many callbacks has them all sent; those behind it wait for the end.
            sent, rest = [b"x"] * CALLBACKS_HELD + [b""] * 10, [b""] * CALLBACKS_HELD + [b"x"] * 10
            await sooner_or_later(behind_so_many, (sent, rest))

    velodrome.run(main())


@pytest.mark.parametrize("method", ["close", "write_eof", "get_write_buffer_size", "writelines", "pause_reading"])
def test_no_other_method_overtakes_what_is_held(method):
    async def main():
        async with connections(MANY) as many:
            await many.batch(MANY)
            seen = []

            def write(transport, peer):
                transport.write(b"x")
                getattr(transport, method)(*([[b"y"]] if method == "writelines" else []))
                seen.append(received(peer))

            for transport, peer in many.pairs:
                many.loop.call_soon(write, transport, peer)
            over = many.loop.create_future()
            many.loop.call_soon(over.set_result, None)
            await over
            assert seen == [b"xy" if method == "writelines" else b"x"] * MANY

    velodrome.run(main())


def use(sock, method, in_thread):
    if in_thread:
        thread = threading.Thread(target=use, args=(sock, method, False))
        thread.start()
        thread.join()
    elif method == "shutdown":
        sock.shutdown(socket.SHUT_WR)
    elif method == "fileno":
        os.write(sock.fileno(), b"y")
    else:
        with sock.dup() as other:
            other.send(b"y")


@pytest.mark.parametrize("joined_by", ["crowd", "two writes"])
@pytest.mark.parametrize("method", ["shutdown", "fileno", "dup"])
@pytest.mark.parametrize("in_thread", [False, True], ids=["", "in a thread"])
def test_a_socket_that_was_asked_for_before_does_not_overtake_what_is_held(method, joined_by, in_thread):
    count = MANY if joined_by == "crowd" else 1

    async def attempt():
        """What had arrived before the socket was used, and after that."""
        async with connections(count) as many:
            sockets = [transport.get_extra_info("socket") for transport, _ in many.pairs]
            assert all(isinstance(sock, asyncio.trsock.TransportSocket) for sock in sockets)
            if joined_by == "crowd":
                await many.batch(MANY)
            else:
                for transport, peer in many.pairs:
                    transport.write(b"1")
                    transport.write(b"2")
                    await asyncio.sleep(0)
                    assert received(peer) == b"12"
            seen = []

            def write(transport, peer, sock):
                transport.write(b"x")
                before = received(peer)
                use(sock, method, in_thread)
                seen.append((before, received(peer)))

            for (transport, peer), sock in zip(many.pairs, sockets, strict=True):
                many.loop.call_soon(write, transport, peer, sock)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if method == "shutdown":
                assert [peer.recv(1) for _, peer in many.pairs] == [b""] * count
            return seen

    async def main():
        await sooner_or_later(attempt, [(b"", b"x" if method == "shutdown" else b"xy")] * count)

    velodrome.run(main())


def test_it_can_be_turned_off():
    program = """if True:
        import asyncio, sys
        sys.path.insert(0, sys.argv[1])
        import velodrome
        from test_crowds import MANY, connections

        async def main():
            async with connections(MANY) as many:
                for _ in range(3):
                    assert (await many.batch(MANY))[0] == [b"x"] * MANY

        velodrome.run(main())
    """
    command = [sys.executable, "-c", program, os.path.dirname(__file__)]
    subprocess.run(command, env=os.environ | {"VELODROME_JOIN_WRITES": "0"}, check=True, timeout=60)
