"""A descriptor number that gets a new owner: nothing of the old one reaches it."""

import asyncio
import contextlib
import os
import resource
import socket

import pytest


@pytest.fixture
def loop(new_loop):
    with contextlib.closing(new_loop()) as loop:
        yield loop


def use_a_number_again(number):
    """A connected pair of sockets, one of which has the number."""
    one, other = socket.socketpair()
    if other.fileno() == number:
        one, other = other, one
    assert one.fileno() == number
    return one, other


def test_a_server_closed_in_its_pause_leaves_the_next_owner_of_its_number_alone(loop):
    async def main():
        reports = []
        loop.set_exception_handler(lambda loop, context: reports.append(context["message"]))
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        number = server.sockets[0].fileno()
        address = server.sockets[0].getsockname()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = []
        with socket.socket() as client:
            client.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (number + 30, limits[1]))
            try:
                with contextlib.suppress(OSError):
                    while True:
                        files.append(os.open(os.devnull, os.O_RDONLY))
                client.connect_ex(address)
                while not reports:
                    await asyncio.sleep(0.001)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert reports == ["socket.accept() out of system resource"]
            server.close()
            await asyncio.sleep(0)
            one, other = use_a_number_again(number)
            for file in files:
                os.close(file)
            with other:
                reader, writer = await asyncio.open_connection(sock=one)
                # The retry of the listener comes a second after its pause began.
                await asyncio.sleep(1.1)
                other.send(b"hello")
                assert await asyncio.wait_for(reader.read(9), 10) == b"hello"
                writer.close()
                await writer.wait_closed()
        assert len(reports) == 1

    loop.run_until_complete(main())


def test_a_receive_of_a_closed_socket_does_not_get_the_next_owners_data(loop):
    async def main():
        one, other = socket.socketpair()
        one.setblocking(False)
        number = one.fileno()
        task = asyncio.ensure_future(loop.sock_recv(one, 100))
        await asyncio.sleep(0)
        one.close()
        other.close()
        new, peer = use_a_number_again(number)
        with new, peer:
            loop.add_writer(new, lambda: None)
            peer.send(b"secret")
            with pytest.raises(OSError, match="Bad file descriptor"):
                await asyncio.wait_for(task, 10)
            loop.remove_writer(new)

    loop.run_until_complete(main())


def test_a_descriptor_closed_beneath_a_transport_does_not_end_the_loop(loop):
    async def main():
        reports = []
        loop.set_exception_handler(lambda loop, context: reports.append(context["exception"]))
        one, peer = socket.socketpair()
        with peer:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
            os.close(one.fileno())
            transport.abort()
            while not reports:
                await asyncio.sleep(0)
            with contextlib.suppress(OSError):
                one.detach()
        assert [error.errno for error in reports] == [9]

    loop.run_until_complete(main())
