"""A datagram protocol that writes down what happens to it, and what else the tests of datagrams share."""

import asyncio
import os
import sys

import pytest
from checker import Recorder, polled

LARGEST = 65507  # what an IPv4 packet holds
LOCAL = ("127.0.0.1", 0)
# Abstract names belong to the whole machine: several runs of these tests must not meet.
ABSTRACT = f"\0velodrome-datagrams-{os.getpid()}"
# What a waiting datagram counts beyond its data.
HEADER = 8 if sys.version_info >= (3, 13) else 0
SIZE = 1000  # of each datagram that a Blocked sends
PACKETS = pytest.mark.skipif(sys.version_info < (3, 13), reason="packet sockets are taken from 3.13 on")
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


class Text(str):
    pass


def numbered(count, start=0):
    return [b"%05d" % number for number in range(start, start + count)]


async def converse(asking, asked, question=b"question", answer=b"answer"):
    """One protocol asks its remote address, the other answers; each has seen the other's address and nothing else."""
    asking.transport.sendto(question)
    await asked.received()
    assert asked.datagrams == [(question, asking.transport.get_extra_info("sockname"))]
    asked.transport.sendto(answer, asked.datagrams[0][1])
    await asking.received()
    assert asking.datagrams == [(answer, asked.transport.get_extra_info("sockname"))]


async def settled(loop):
    """What was going to happen without anybody's help has happened."""
    for _ in range(3):
        await polled(loop)


async def drained(loop, sock, count):
    """The next `count` datagrams that a socket of ours receives."""
    return [await loop.sock_recv(sock, 1 << 20) for _ in range(count)]


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
