"""What the loop's own thread does to a descriptor is seen at the very next iteration, however busy the loop is.

asyncio polls in each iteration. Socket pairs and pipes deliver inside the system call, so that the iteration in which
the other end hears of it is certain.
"""

import asyncio
import os
import socket

from checker import Recorder


async def iterations(count):
    """Lets so many pass, none of them idle."""
    for _ in range(count):
        await asyncio.sleep(0)


async def both_ends(loop):
    ours, theirs = socket.socketpair()
    near, _ = await loop.create_connection(Recorder, sock=ours)
    _, far = await loop.create_connection(Recorder, sock=theirs)
    await iterations(3)  # the poll is behind us
    return near, far


async def end(*transports):
    for transport in transports:
        transport.abort()
    await iterations(3)


async def test_a_write_is_read_in_the_next_iteration(loop):
    near, far = await both_ends(loop)
    for expected in (b"1", b"12", b"123"):
        near.write(expected[-1:])
        await iterations(2)
        assert far.data == expected
    await end(near, far.transport)


async def test_writelines_are_read_in_the_next_iteration(loop):
    near, far = await both_ends(loop)
    near.writelines([b"head", b"body"])
    await iterations(2)
    assert far.data == b"headbody"
    await end(near, far.transport)


async def test_write_eof_is_heard_in_the_next_iteration(loop):
    near, far = await both_ends(loop)
    near.write_eof()
    await iterations(2)
    assert "eof_received" in far.calls
    await end(near, far.transport)


async def test_a_close_is_heard_in_the_iteration_after_connection_lost(loop):
    near, far = await both_ends(loop)
    near.close()
    await iterations(3)
    assert "eof_received" in far.calls
    await end(far.transport)


async def test_sock_sendall_is_read_in_the_next_iteration(loop):
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        received = loop.create_task(loop.sock_recv(far, 10))
        await iterations(3)
        await loop.sock_sendall(near, b"now")
        await iterations(3)  # the reader hears, sets the future, and its task runs
        assert received.done()
        assert received.result() == b"now"


async def test_a_reader_of_what_is_there_runs_in_the_next_iteration(loop):
    near, far = socket.socketpair()
    seen = []
    with near, far:
        near.send(b"waits")
        loop.add_reader(far, seen.append, True)
        await iterations(2)
        assert seen
        loop.remove_reader(far)


async def test_a_pipe_is_read_in_the_next_iteration(loop):
    read, write = os.pipe()
    reading, far = await loop.connect_read_pipe(Recorder, open(read, "rb", 0))
    writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, open(write, "wb", 0))
    await iterations(3)
    writing.write(b"through")
    await iterations(2)
    assert far.data == b"through"
    writing.close()
    await iterations(4)
    assert "eof_received" in far.calls
    reading.close()
    await iterations(2)


async def test_a_datagram_is_received_in_the_next_iteration(loop, tmp_path):
    class Datagrams(asyncio.DatagramProtocol):
        def __init__(self):
            self.received = []

        def datagram_received(self, data, address):
            self.received.append(data)

    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    near, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=here, family=socket.AF_UNIX)
    far, protocol = await loop.create_datagram_endpoint(Datagrams, local_addr=there, family=socket.AF_UNIX)
    await iterations(3)
    near.sendto(b"1", there)
    await iterations(2)
    assert protocol.received == [b"1"]
    near.abort()
    far.abort()
    await iterations(2)


async def test_a_connection_that_is_over_at_once_is_accepted(loop, reports, tmp_path):
    path = str(tmp_path / "socket")

    async def raises(reader, writer):
        raise OSError("on purpose")

    for _ in range(10):
        server = await asyncio.start_unix_server(raises, path)
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(b"a word")
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await iterations(3)
        assert reports.take()["message"] == "Unhandled exception in client_connected_cb"
