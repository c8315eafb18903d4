"""sock_connect: who is asked, what fails and how, and what can be done with the socket afterwards."""

import asyncio
import contextlib
import errno
import os
import socket

import pytest
from checker import Recorder, polled, receive_exactly

# What asyncio calls of the loop, and of the socket, to connect to numbers.
OF_LOOP = (
    "_add_writer",
    "_ensure_fd_no_transport",
    "_ensure_resolved",
    "_sock_connect",
    "_sock_connect_cb",
    "_sock_write_done",
    "create_future",
    "remove_writer",
)
OF_SOCKET = ("connect", "fileno", "getsockopt")


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def client():
    with socket.socket() as client:
        client.setblocking(False)
        yield client


@pytest.fixture
def full():
    """A listener whose queue is full, so that it answers nothing, and who is in the queue."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname()) as first:
            yield listener, first


@contextlib.contextmanager
def refusing(family, host):
    """The address of a port where nobody listens."""
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        yield sock.getsockname()


def noted(method, calls):
    def call(*args, **kwargs):
        calls.append(1)
        return method(*args, **kwargs)

    return call


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("name", OF_LOOP)
async def test_what_is_put_on_the_loop_is_asked(loop, client, listener, name, monkeypatch):
    calls = []
    monkeypatch.setattr(loop, name, noted(getattr(loop, name), calls))
    await loop.sock_connect(client, listener.getsockname())
    assert client.getpeername() == listener.getsockname()
    assert calls


@pytest.mark.parametrize("name", OF_SOCKET)
async def test_what_is_put_on_the_class_of_sockets_is_asked(loop, client, listener, name, monkeypatch):
    calls = []
    monkeypatch.setattr(socket.socket, name, noted(getattr(socket.socket, name), calls))
    await loop.sock_connect(client, listener.getsockname())
    assert calls


async def test_a_socket_of_a_class_of_its_own_is_asked(loop, listener):
    class Socket(socket.socket):
        def connect(self, address):
            self.connected_to = address
            return super().connect(address)

    with Socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, listener.getsockname())
        assert client.connected_to == listener.getsockname()


async def test_a_refusal_names_the_address(loop, client):
    with refusing(socket.AF_INET, "127.0.0.1") as address:
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.sock_connect(client, address)
    assert caught.value.args == (errno.ECONNREFUSED, f"Connect call failed {address}")


@pytest.mark.parametrize("parts", [2, 3, 4])
async def test_a_refusal_names_all_parts_of_an_address(loop, parts):
    with refusing(socket.AF_INET6, "::1") as address, socket.socket(socket.AF_INET6) as client:
        client.setblocking(False)
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.sock_connect(client, address[:parts])
    assert caught.value.args == (errno.ECONNREFUSED, f"Connect call failed {address}")


async def test_a_socket_that_was_refused_is_tried_as_often_as_asked(loop, client, listener):
    """Linux tells once more that it failed; then the socket is as good as new."""
    with refusing(socket.AF_INET, "127.0.0.1") as address, pytest.raises(ConnectionRefusedError):
        await loop.sock_connect(client, address)
    with pytest.raises(ConnectionAbortedError) as caught:
        await loop.sock_connect(client, listener.getsockname())
    assert caught.value.args == (errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
    await loop.sock_connect(client, listener.getsockname())
    assert client.getpeername() == listener.getsockname()


async def test_an_address_of_another_family_is_an_error(loop, listener):
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
        with socket.socket(socket.AF_INET6, kind) as client:
            client.setblocking(False)
            with pytest.raises(socket.gaierror):
                await loop.sock_connect(client, listener.getsockname())


async def test_a_datagram_socket_is_connected(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as peer, socket.socket(type=socket.SOCK_DGRAM) as client:
        peer.bind(("127.0.0.1", 0))
        client.setblocking(False)
        await loop.sock_connect(client, peer.getsockname())
        assert client.getpeername() == peer.getsockname()


async def test_a_blocking_socket_is_connected(loop, listener):
    with socket.socket() as client:
        await loop.sock_connect(client, listener.getsockname())
        assert client.gettimeout() is None
        assert client.getpeername() == listener.getsockname()


async def test_a_socket_that_is_connected_is_an_error(loop, client, listener):
    for _ in range(2):  # the first does not wait for the end of what it begins, the second is told
        await loop.sock_connect(client, listener.getsockname())
    with pytest.raises(OSError) as caught:
        await loop.sock_connect(client, listener.getsockname())
    assert caught.value.args == (errno.EISCONN, os.strerror(errno.EISCONN))


async def test_a_closed_socket_is_an_error(loop, client, listener):
    client.close()
    with pytest.raises(OSError) as caught:
        await loop.sock_connect(client, listener.getsockname())
    assert caught.value.errno == errno.EBADF


async def test_two_may_wait_for_one_socket(loop, client, full):
    listener, _ = full
    tasks = [loop.create_task(loop.sock_connect(client, listener.getsockname())) for _ in range(2)]
    await polled(loop)
    assert not any(task.done() for task in tasks)
    for task in tasks:
        await cancelled(task)


async def test_a_socket_that_is_closed_while_it_connects_leaves_nothing(loop, client, full):
    listener, _ = full
    task = loop.create_task(loop.sock_connect(client, listener.getsockname()))
    await polled(loop)
    client.close()
    await cancelled(task)


@pytest.mark.parametrize("use", ["sock", "transport"])
async def test_a_connection_that_takes_its_time(loop, client, full, use):
    """The first packet is lost, and sent again after a second: `connect` could not wait for it."""
    listener, first = full
    task = loop.create_task(loop.sock_connect(client, listener.getsockname()))
    await polled(loop)
    assert not task.done()
    with contextlib.ExitStack() as others:
        address = None
        while address != client.getsockname():
            accepted, address = await loop.run_in_executor(None, listener.accept)
            others.enter_context(accepted).setblocking(False)
        assert await task is None
        if use == "sock":
            receiving = loop.create_task(loop.sock_recv(client, 5))
            await polled(loop)
            accepted.send(b"hello")
            assert await receiving == b"hello"
            await loop.sock_sendall(client, b"world")
            assert await receive_exactly(loop, accepted, 5) == b"world"
        else:
            transport, protocol = await loop.create_connection(Recorder, sock=client)
            accepted.send(b"hello")
            assert await protocol.received(5) == b"hello"
            transport.close()
            await protocol.lost
