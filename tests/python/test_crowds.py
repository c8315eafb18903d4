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
        """Has so many of them write in one batch. What had arrived when each had written: all has at the end."""
        seen = []

        def write(transport, peer):
            transport.write(b"x")
            seen.append(received(peer))
            time.sleep(seconds)

        for transport, peer in self.pairs[:writers]:
            self.loop.call_soon(write, transport, peer)
        await end_of_batch()
        arrived = [already + received(peer) for already, (_, peer) in zip(seen, self.pairs, strict=False)]
        assert arrived == [b"x"] * writers
        return seen


async def end_of_batch():
    """The next one: until what is ready has run, and what it wrote is sent."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


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
    """Until it gives that. On a machine that is busy with something else, quick callbacks may seem to be slow.

    What has to be so each time is for the attempt to look at.
    """
    for _ in range(1000):
        got = await attempt()
        if got == expected:
            return
    assert got == expected


def test_what_many_write_goes_out_at_the_end_of_the_batch():
    async def main():
        async with connections(MANY) as many:
            held = [b""] * MANY
            assert await many.batch(MANY) == [b"x"] * MANY
            await sooner_or_later(lambda: many.batch(MANY), held)

            async def behind_batches_without_writes():
                await many.batch(MANY)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                return await many.batch(MANY)

            await sooner_or_later(behind_batches_without_writes, held)

    velodrome.run(main())


def test_few_send_at_once():
    async def main():
        async with connections(MANY) as many:
            for _ in range(3):
                assert await many.batch(MANY - 1) == [b"x"] * (MANY - 1)

            async def one_behind_many():
                await many.batch(MANY)
                return await many.batch(1)

            await sooner_or_later(one_behind_many, [b""])
            assert await many.batch(1) == [b"x"]

    velodrome.run(main())


def test_slow_callbacks_send_at_once():
    async def main():
        async with connections(MANY) as many:
            for _ in range(3):
                assert await many.batch(MANY, seconds=0.001) == [b"x"] * MANY

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
                await end_of_batch()
                rest = [received(peer) for _, peer in many.pairs]
                assert [sent + later for sent, later in zip(seen, rest, strict=True)] == [b"x"] * len(many.pairs)
                return seen

            # The last of so many callbacks has them all sent; those behind it wait for the end.
            await sooner_or_later(behind_so_many, [b"x"] * CALLBACKS_HELD + [b""] * 10)

    velodrome.run(main())


def assert_nothing_overtakes(act, expected, joined_by="crowd"):
    """Each writes, and then acts; nothing may have arrived before, and must have after that."""
    count = MANY if joined_by == "crowd" else 1

    async def attempt():
        seen = []

        def write(transport, peer, sock):
            transport.write(b"x")
            before = received(peer)
            act(transport, sock)
            seen.append((before, received(peer)))

        async with connections(count) as many:
            sockets = [transport.get_extra_info("socket") for transport, _ in many.pairs]
            if joined_by == "crowd":
                await many.batch(MANY)
            else:
                for transport, peer in many.pairs:
                    transport.write(b"1")
                    transport.write(b"2")
                    await asyncio.sleep(0)
                    assert received(peer) == b"12"
            for pair, sock in zip(many.pairs, sockets, strict=True):
                many.loop.call_soon(write, *pair, sock)
            await end_of_batch()
        assert [before + after for before, after in seen] == [expected] * count
        return [before for before, _ in seen]

    velodrome.run(sooner_or_later(attempt, [b""] * count))


@pytest.mark.parametrize("method", ["close", "write_eof", "get_write_buffer_size", "writelines", "pause_reading"])
def test_no_other_method_overtakes_what_is_held(method):
    arguments = [[b"y"]] if method == "writelines" else []
    assert_nothing_overtakes(
        lambda transport, _: getattr(transport, method)(*arguments), b"xy" if arguments else b"x"
    )


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
    expected = b"x" if method == "shutdown" else b"xy"
    assert_nothing_overtakes(lambda _, sock: use(sock, method, in_thread), expected, joined_by)


def test_it_can_be_turned_off():
    program = """if True:
        import asyncio, sys
        sys.path.insert(0, sys.argv[1])
        import velodrome
        from test_crowds import MANY, connections

        async def main():
            async with connections(MANY) as many:
                for _ in range(3):
                    assert await many.batch(MANY) == [b"x"] * MANY

        velodrome.run(main())
    """
    command = [sys.executable, "-c", program, os.path.dirname(__file__)]
    subprocess.run(command, env=os.environ | {"VELODROME_JOIN_WRITES": "0"}, check=True, timeout=60)
