"""Sockets and other descriptors without a transport, datagrams, and pipes."""

import asyncio
import contextlib
import os
import socket
import threading
import zlib

from activity import LOCALHOST, activity, check, ended, pieces, some_bytes, to_the_end
from streams import Peer

# ---- socks, readers, pipes ---------------------------------------------------------------------------------------


async def connected_socks(soak, rng, stack):
    loop = soak.loop
    if rng.random() < 0.5:
        one, other = (stack.enter_context(sock) for sock in socket.socketpair())
    else:
        listener = stack.enter_context(socket.create_server((LOCALHOST, 0)))
        one = stack.enter_context(socket.socket())
        listener.setblocking(False)
        one.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        try:
            await loop.sock_connect(one, listener.getsockname())
        finally:
            # asyncio forgets a connection that it has accepted if it is cancelled then.
            try:
                await to_the_end(asyncio.wait([accepting]), lambda _: None)
            finally:
                other = stack.enter_context(accepting.result()[0])
    one.setblocking(False)
    other.setblocking(False)
    return one, other


@activity
async def sock_calls(soak, rng):
    loop = soak.loop
    with contextlib.ExitStack() as stack:
        one, other = await connected_socks(soak, rng, stack)
        data = some_bytes(rng, 500_000)

        async def send():
            for piece in list(pieces(rng, data)):
                await loop.sock_sendall(one, piece)

        sending = asyncio.ensure_future(send())
        try:
            received = bytearray()
            buffer = bytearray(5000)
            while len(received) < len(data):
                if rng.random() < 0.5:
                    piece = await loop.sock_recv(other, rng.choice([1, 1000, 400_000]))
                else:
                    piece = memoryview(buffer)[: await loop.sock_recv_into(other, buffer)]
                check(len(piece), "the end")
                received += piece
            check(received == data, "other data")
            await sending
        finally:
            await ended(sending)


@activity
async def sock_calls_cancelled(soak, rng):
    """Calls that wait, and are given up in the middle; the sockets go on to work."""
    loop = soak.loop
    with contextlib.ExitStack() as stack:
        one, other = await connected_socks(soak, rng, stack)
        listener = stack.enter_context(socket.create_server((LOCALHOST, 0)))
        listener.setblocking(False)
        calls = [
            (loop.sock_recv, one, 10),
            (loop.sock_recv_into, one, bytearray(10)),
            (loop.sock_recvfrom, one, 10),
            (loop.sock_recvfrom_into, one, bytearray(10)),
            (loop.sock_accept, listener),
        ]
        for call, *arguments in rng.sample(calls, rng.randrange(1, 5)):
            try:
                async with asyncio.timeout(rng.choice([0, 0.0005, 0.002])):
                    await call(*arguments)
            except TimeoutError:
                continue
            check(False, "data out of nowhere")
        await loop.sock_sendall(other, b"at last")
        check(await loop.sock_recv(one, 10) == b"at last", "other data")


@activity
async def sendfile_of_a_sock(soak, rng):
    loop = soak.loop
    with contextlib.ExitStack() as stack:
        one, other = await connected_socks(soak, rng, stack)
        file = stack.enter_context(open(soak.file, "rb"))
        offset, count = rng.randrange(1000), rng.choice([None, rng.randrange(1, 100_000)])
        expected = soak.content[offset:][:count]
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        sending = asyncio.ensure_future(loop.sock_sendfile(one, file, offset, count))
        try:
            received = bytearray()
            while len(received) < len(expected):
                received += await loop.sock_recv(other, 100_000)
            check(received == expected, "another file")
            check(await sending == len(expected), "another count")
        finally:
            await ended(sending)


@activity
async def sock_datagrams(soak, rng):
    loop = soak.loop
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as other:
        for sock in (one, other):
            sock.setblocking(False)
            sock.bind((LOCALHOST, 0))
        buffer = bytearray(10_000)
        for number in range(rng.randrange(1, 20)):
            data = a_datagram(rng, number)
            await loop.sock_sendto(one, data, other.getsockname())
            if rng.random() < 0.5:
                received, sender = await loop.sock_recvfrom(other, 10_000)
            else:
                count, sender = await loop.sock_recvfrom_into(other, buffer)
                received = buffer[:count]
            check(received == data and sender == one.getsockname(), "another datagram")


@activity
async def readers_and_writers(soak, rng):
    loop = soak.loop
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        data = some_bytes(rng, 50_000)
        received = bytearray()
        done = loop.create_future()
        unsent = memoryview(data)

        def write():
            nonlocal unsent
            with contextlib.suppress(BlockingIOError):
                unsent = unsent[one.send(unsent[: rng.choice([10, 1000, 50_000])]) :]
            if not unsent:
                check(loop.remove_writer(one), "nobody wrote")
            elif rng.random() < 0.1:
                loop.remove_writer(one.fileno())
                loop.call_later(rng.choice([0, 0.0005]), again)

        def again():
            if not done.done():
                loop.add_writer(one, write)

        def read(number):
            received.extend(other.recv(rng.choice([10, 1000, 50_000])))
            if len(received) == len(data) and not done.done():
                done.set_result(None)
            elif rng.random() < 0.2:
                loop.add_reader(other, read, number + 1)

        if not data:
            return
        loop.add_reader(other, read, 0)
        loop.add_writer(one, write)
        try:
            await done
            check(received == data, "other data")
        finally:
            done.cancel()
            check(loop.remove_reader(other), "nobody read")
            loop.remove_writer(one)
            check(not loop.remove_reader(other) and not loop.remove_writer(one), "still watched")


@activity
async def wake_ups_by_eventfd(soak, rng):
    loop = soak.loop
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    total, count = 0, rng.randrange(1, 50)
    done = loop.create_future()

    def read():
        nonlocal total
        total += os.eventfd_read(descriptor)
        if total == count and not done.done():
            done.set_result(None)

    def write(times):
        for _ in range(times):
            os.eventfd_write(descriptor, 1)

    try:
        loop.add_reader(descriptor, read)
        thread = threading.Thread(target=write, args=(count,))
        thread.start()
        try:
            await done
        finally:
            thread.join()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


@activity
async def pipes(soak, rng):
    loop = soak.loop
    with contextlib.ExitStack() as stack:
        read_end, write_end = (open(fd, mode, buffering=0) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        stack.callback(write_end.close)
        stack.callback(read_end.close)
        reader = asyncio.StreamReader()
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), read_end)
        stack.callback(reading.close)
        peer = Peer(rng)
        writing, _ = await loop.connect_write_pipe(lambda: peer, write_end)
        stack.callback(lambda: peer.is_lost or writing.abort())
        data = some_bytes(rng)
        for piece in list(pieces(rng, data)):
            await peer.writable.wait()
            writing.write(bytes(piece))
        rng.choice([writing.write_eof, writing.close])()
        check(await reader.read() == data, "other data")


# ---- datagrams ---------------------------------------------------------------------------------------------------


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, rng):
        self.rng = rng
        self.received = []
        self.errors = []
        self.transport = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.received.append((data, addr))
        if self.rng.random() < 0.05:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    def error_received(self, exc):
        self.errors.append(exc)

    def connection_lost(self, exc):
        if not self.lost.done():  # or cancelled, with the activity that waits for it
            self.lost.set_result(exc)


def a_datagram(rng, number):
    body = number.to_bytes(4, "big") + rng.randbytes(rng.choice([0, 10, 1000, 9000]))
    return body + zlib.crc32(body).to_bytes(4, "big")


def check_datagram(data):
    check(zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "big"), "a damaged datagram")
    return int.from_bytes(data[:4], "big")


@activity
async def datagrams_over_udp(soak, rng):
    loop = soak.loop
    one, other = Datagrams(rng), Datagrams(rng)
    try:
        await loop.create_datagram_endpoint(lambda: other, local_addr=(LOCALHOST, 0))
        to = other.transport.get_extra_info("sockname")
        connected = rng.random() < 0.5
        addresses = {"remote_addr": to} if connected else {"local_addr": (LOCALHOST, 0)}
        await loop.create_datagram_endpoint(lambda: one, **addresses)
        sent = [a_datagram(rng, number) for number in range(rng.randrange(1, 100))]
        for data in sent:
            one.transport.sendto(data, None if connected else to)
            if rng.random() < 0.1:
                await asyncio.sleep(0)
        if connected and rng.random() < 0.3:
            # Nobody is there any more: the next ones are refused.
            other.transport.abort()
            await other.lost
            for data in sent[:3]:
                one.transport.sendto(data)
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(0.002)
        # The kernel may drop datagrams, but no more than that.
        numbers = [check_datagram(data) for data, _ in other.received]
        check(numbers == sorted(set(numbers)), "datagrams twice, or in another order")
        own = one.transport.get_extra_info("sockname")
        check(all(addr == own for _, addr in other.received), "from another address")
        one.transport.close()
        await one.lost
    finally:
        for each in (one, other):
            if each.transport is not None:
                each.transport.abort()


@activity
async def datagrams_over_unix(soak, rng):
    loop = soak.loop
    one, other = Datagrams(rng), Datagrams(rng)
    socks = socket.socketpair(type=socket.SOCK_DGRAM)
    try:
        for protocol, sock in zip((one, other), socks, strict=True):
            await loop.create_datagram_endpoint(lambda protocol=protocol: protocol, sock=sock)
        sent = [a_datagram(rng, number) for number in range(rng.randrange(1, 100))]
        for data in sent:
            one.transport.sendto(data)
        if rng.random() < 0.5:
            one.transport.close()
        while len(other.received) < len(sent):
            await asyncio.sleep(0.001)
        check([data for data, _ in other.received] == sent, "other datagrams")
    finally:
        for protocol, sock in zip((one, other), socks, strict=True):
            protocol.transport.abort() if protocol.transport is not None else sock.close()
