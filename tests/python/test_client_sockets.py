"""Connecting without a Python socket: that it happens, and when it does not."""

import asyncio
import socket
import weakref

import pytest
import velodrome
from support import run_child


@pytest.fixture
def loop(new_loop):
    loop = new_loop()
    yield loop
    loop.close()


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@pytest.fixture
def silent():
    """An address that answers nothing: a listener whose queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):
            yield listener.getsockname()


def is_short(loop, address):
    """Whether the loop connects to an address by itself."""
    sock = loop._connect_numbers(*address)
    if sock is not None:
        sock.close()
    return sock is not None


def test_numbers_are_connected_without_a_python_socket(loop, address):
    sock = loop._connect_numbers(*address)
    assert type(sock) is velodrome._native.ClientSocket
    assert sock.fileno() >= 0
    sock.close()
    sock.close()
    assert sock.fileno() == -1


@pytest.mark.parametrize("host", ["localhost", b"127.0.0.1", "127.1", None, type("Text", (str,), {})("127.0.0.1")])
def test_other_hosts_are_asyncio_s(loop, address, host):
    assert loop._connect_numbers(host, address[1]) is None


@pytest.mark.parametrize("port", ["80", 70000, -1, None, 80.0, True])
def test_other_ports_are_asyncio_s(loop, port):
    assert loop._connect_numbers("127.0.0.1", port) is None


def test_what_getaddrinfo_finds_is_connected_without_a_python_socket(loop, address):
    for family, kind, protocol, _, found in socket.getaddrinfo(*address, proto=socket.IPPROTO_TCP):
        loop._connect_found(family, kind, protocol, found).close()
        assert loop._connect_found(family, kind, 0, found) is None
        assert loop._connect_found(family, socket.SOCK_DGRAM, protocol, found) is None
        assert loop._connect_found(socket.AF_UNIX, kind, protocol, found) is None
        assert loop._connect_found("family", kind, protocol, found) is None
        assert loop._connect_found(family, kind, protocol, "address") is None


def test_a_path_is_connected_without_a_python_socket(loop, tmp_path):
    path = str(tmp_path / "socket")
    assert loop._connect_path(path) is None  # nobody is there: asyncio says so
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        sock = loop._connect_path(path)
        assert sock.wait() is None
        sock.close()


def test_nothing_is_connected_that_somebody_else_should_hear_of(loop, address, monkeypatch):
    assert is_short(loop, address)
    places = (type(loop), "sock_connect"), (asyncio.SelectorEventLoop, "_sock_connect"), (socket.socket, "connect")
    for cls, name in places:
        with monkeypatch.context() as patch:
            patch.setattr(cls, name, lambda *args: None)
            assert not is_short(loop, address)
        assert is_short(loop, address)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", type("Socket", (socket.socket,), {}))
        assert not is_short(loop, address)
    assert is_short(loop, address)
    loop.set_debug(True)
    assert not is_short(loop, address)
    loop.set_debug(False)
    assert is_short(loop, address)
    loop.sock_connect = loop.sock_connect
    assert not is_short(loop, address)


def test_nothing_is_connected_if_a_method_was_replaced_before_we_came():
    code = """
        import asyncio, functools, socket
        original = asyncio.SelectorEventLoop.sock_connect

        @functools.wraps(original)
        async def sock_connect(self, *args):
            return await original(self, *args)

        asyncio.SelectorEventLoop.sock_connect = sock_connect
        import velodrome
        with socket.create_server(("127.0.0.1", 0)) as listener:
            loop = velodrome.new_event_loop()
            assert loop._connect_numbers(*listener.getsockname()) is None
            loop.close()
    """
    run_child("asyncio", code)


def test_nothing_is_connected_as_long_as_a_method_is_another_one_at_the_first_connection():
    code = """
        import socket, velodrome

        def is_short():
            client = loop._connect_numbers(*listener.getsockname())
            if client is not None:
                client.close()
            return client is not None

        connect = socket.socket.connect
        with socket.create_server(("127.0.0.1", 0)) as listener:
            loop = velodrome.new_event_loop()
            socket.socket.connect = socket.socket.connect_ex  # no function of the program's
            assert not is_short()
            assert not is_short()
            socket.socket.connect = connect
            assert is_short()
            loop.close()
    """
    run_child("asyncio", code)


def test_a_loop_that_is_closed_connects_nothing(loop, address):
    loop.close()
    assert not is_short(loop, address)


def test_a_loop_that_is_closed_meanwhile_lets_go(loop, silent):
    sock = loop._connect_numbers(*silent)
    waiter = weakref.ref(sock.wait())
    loop.close()
    sock.close()
    assert waiter() is None
    assert sock.fileno() == -1


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_of_a_program_is_connected_without_asyncio(loop, address, kind, monkeypatch):
    with socket.socket(type=kind) as client:
        client.setblocking(False)
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "connect", socket.socket.connect_ex)
            assert loop._try_sock_connect(client, address) is NotImplemented
        assert loop._try_sock_connect(client, ("localhost", address[1])) is NotImplemented
        assert loop._try_sock_connect(client, list(address)) is NotImplemented
        assert loop._try_sock_connect(client, address) is not NotImplemented
        assert client.getpeername() == address
