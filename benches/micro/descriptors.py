"""Descriptors that the loop watches, and pipes."""

import asyncio
import os
import socket

from .workload import MissingOperations, expect, workload

BYTES = [bytes([value]) for value in range(256)]


@workload(chunk=2_000)
def add_reader(loop, operations):
    """A reader that takes one byte from a socket and sends itself the next one."""
    done = right = 0
    near, far = socket.socketpair()

    def ready():
        nonlocal done, right
        right += near.recv(1) == BYTES[done % 256]
        done += 1
        if done < operations:
            far.send(BYTES[done % 256])
        else:
            loop.stop()

    with near, far:
        near.setblocking(False)
        loop.add_reader(near.fileno(), ready)
        far.send(BYTES[0])
        loop.run_forever()
        loop.remove_reader(near.fileno())
    expect(right, operations)


@workload(chunk=3_000)
def add_and_remove_reader(loop, operations):
    """A reader added to a readable socket and removed at once, a hundred a tick."""
    done = 0
    near, far = socket.socketpair()
    descriptor = near.fileno()

    def never():
        raise MissingOperations("a removed reader was called")

    def tick():
        nonlocal done
        for _ in range(min(100, operations - done)):
            loop.add_reader(descriptor, never)
            loop.remove_reader(descriptor)
            done += 1
        loop.call_soon(tick if done < operations else loop.stop)

    with near, far:
        far.send(b"x")
        loop.call_soon(tick)
        loop.run_forever()
        # One that stays, to see that adding does something.
        loop.add_reader(descriptor, loop.stop)
        loop.run_forever()
        loop.remove_reader(descriptor)
    expect(done, operations)


@workload(chunk=2_000)
def pipes_1k(loop, operations):
    """1 KiB sent through a pipe and answered through another, by the loop's transports."""

    async def main():
        finished = loop.create_future()
        there = os.pipe()
        back = os.pipe()
        answering = await connect_write_pipe(loop, back[1])
        await connect_read_pipe(loop, there[0], PipeEcho(answering))
        asking = await connect_write_pipe(loop, there[1])
        await connect_read_pipe(loop, back[0], PipeAsker(asking, operations, finished))
        expect(await finished, operations)

    loop.run_until_complete(main())


async def connect_write_pipe(loop, descriptor):
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(descriptor, "wb", 0))
    return transport


async def connect_read_pipe(loop, descriptor, protocol):
    await loop.connect_read_pipe(lambda: protocol, os.fdopen(descriptor, "rb", 0))


class PipeEcho(asyncio.Protocol):
    """Answers what it reads through another pipe, and ends with its own."""

    def __init__(self, answering):
        self.answering = answering

    def data_received(self, data):
        self.answering.write(data)

    def connection_lost(self, exc):
        self.answering.close()


class PipeAsker(asyncio.Protocol):
    """Reads the answers; after the last one it ends both pipes and tells how many were right."""

    def __init__(self, asking, operations, finished):
        self.asking = asking
        self.left = operations
        self.right = 0
        self.finished = finished

    def connection_made(self, transport):
        self.ask()

    def ask(self):
        self.message = self.left.to_bytes(4, "big") * 256
        self.answer = b""
        self.asking.write(self.message)

    def data_received(self, data):
        self.answer += data
        if len(self.answer) < len(self.message):
            return
        self.right += self.answer == self.message
        self.left -= 1
        if self.left:
            self.ask()
        else:
            self.asking.close()

    def connection_lost(self, exc):
        self.finished.set_result(self.right)
