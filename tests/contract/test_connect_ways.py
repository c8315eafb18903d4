"""What asyncio calls to connect is called where a program has put something else in its place."""

import asyncio
import asyncio.unix_events
import contextlib
import contextvars
import errno
import gc
import logging
import re
import socket
import sys

import pytest
from checker import Recorder
from support import run_child

# What asyncio calls of the loop to connect to an address, and of the socket.
OF_LOOP = (
    "_add_writer",
    "_connect_sock",
    "_create_connection_transport",
    "_ensure_fd_no_transport",
    "_ensure_resolved",
    "_make_socket_transport",
    "_sock_connect",
    "_sock_connect_cb",
    "_sock_write_done",
    "create_future",
    "remove_writer",
    "sock_connect",
)
# Those that a loop of another kind has no business to have of its own.
INHERITED = (
    "_connect_sock",
    "_create_connection_transport",
    "_ensure_resolved",
    "_sock_connect",
    "_sock_connect_cb",
    "_sock_write_done",
    "create_connection",
    "sock_connect",
)
OF_SOCKET = ("__init__", "close", "connect", "getpeername", "getsockname", "getsockopt", "setblocking")


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def refused():
    """The address of a port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


def noted(method, calls):
    """The method, which notes that it is called."""

    def call(*args, **kwargs):
        calls.append(method.__name__)
        return method(*args, **kwargs)

    return call


async def come_and_go(loop, address):
    transport, protocol = await loop.create_connection(Recorder, *address)
    assert transport.get_extra_info("peername") == address
    transport.close()
    await protocol.lost


@pytest.mark.parametrize("name", OF_LOOP)
def test_a_subclass_is_asked(loop, listener, name):
    calls = []
    cls = type("Subclass", (type(loop),), {name: noted(getattr(type(loop), name), calls)})
    with contextlib.closing(cls()) as loop:
        loop.run_until_complete(come_and_go(loop, listener.getsockname()))
    assert calls


@pytest.mark.parametrize("name", OF_LOOP)
async def test_what_is_put_on_the_loop_is_asked(loop, listener, name, monkeypatch):
    await come_and_go(loop, listener.getsockname())
    calls = []
    monkeypatch.setattr(loop, name, noted(getattr(loop, name), calls))
    await come_and_go(loop, listener.getsockname())
    assert calls


@pytest.mark.parametrize("name", OF_LOOP)
async def test_what_is_put_on_a_class_is_asked(loop, listener, name, monkeypatch):
    for cls in type(loop), next(cls for cls in type(loop).__mro__ if name in vars(cls)):
        await replaced_for_a_while(loop, listener.getsockname(), cls, name, monkeypatch)


@pytest.mark.parametrize("name", INHERITED)
async def test_what_is_put_on_a_class_of_asyncio_is_asked(loop, listener, name, monkeypatch):
    of_asyncio = (cls for cls in type(loop).__mro__ if cls.__module__.startswith("asyncio."))
    cls = next(cls for cls in of_asyncio if name in vars(cls))
    await replaced_for_a_while(loop, listener.getsockname(), cls, name, monkeypatch)


async def replaced_for_a_while(loop, address, cls, name, monkeypatch):
    """The method is called as long as it is there, neither before nor after."""
    await come_and_go(loop, address)
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(cls, name, noted(getattr(cls, name), calls))
        await come_and_go(loop, address)
    assert calls
    calls.clear()
    await come_and_go(loop, address)
    assert not calls


@pytest.mark.parametrize("name", OF_SOCKET)
async def test_what_is_put_on_the_class_of_sockets_is_asked(loop, listener, name, monkeypatch):
    await come_and_go(loop, listener.getsockname())
    calls = []
    monkeypatch.setattr(socket.socket, name, noted(getattr(socket.socket, name), calls))
    await come_and_go(loop, listener.getsockname())
    assert calls


async def test_another_class_of_sockets_is_used(loop, listener, monkeypatch):
    made = []

    class Socket(socket.socket):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(socket, "socket", Socket)
    await come_and_go(loop, listener.getsockname())
    assert made


async def test_another_module_of_sockets_is_used(loop, listener, monkeypatch):
    class Module:
        def __getattr__(self, name):
            asked.append(name)
            return getattr(socket, name)

    asked = []
    monkeypatch.setattr(asyncio.base_events, "socket", Module())
    await come_and_go(loop, listener.getsockname())
    assert "socket" in asked


async def test_another_module_of_sockets_is_used_for_a_path(loop, tmp_path, monkeypatch):
    class Module:
        AF_UNIX, SOCK_STREAM = socket.AF_UNIX, socket.SOCK_STREAM

        def socket(self, *args):
            made.append(socket.socket(*args))
            return made[-1]

    made = []
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        monkeypatch.setattr(asyncio.unix_events, "socket", Module())
        transport, protocol = await loop.create_unix_connection(Recorder, path)
        transport.close()
        await protocol.lost
    assert len(made) == 1


@pytest.mark.parametrize("where", ["loop", "class"])
async def test_a_create_connection_of_a_programs_own_gets_sockets_of_python(loop, listener, where, monkeypatch):
    async def create_connection(protocol_factory, host, port):
        (info,) = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        sock = await loop._connect_sock([], info)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return await loop._create_connection_transport(sock, protocol_factory, None, None)

    if where == "loop":
        monkeypatch.setattr(loop, "create_connection", create_connection)
    else:
        monkeypatch.setattr(type(loop), "create_connection", staticmethod(create_connection))
    await come_and_go(loop, listener.getsockname())


def test_an_audit_hook_hears_of_it(loop_name):
    code = """
        import asyncio, socket, sys

        async def come_and_go():
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
            transport.close()

        async def main():
            await come_and_go()
            sys.addaudithook(lambda event, args: events.append((event, args)))
            await come_and_go()

        events = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            loop = new_event_loop()
            loop.run_until_complete(main())
            loop.close()
            made = [args[1:] for event, args in events if event == "socket.__new__"]
            assert made[0][:2] == (socket.AF_INET, socket.SOCK_STREAM), made
            ((sock, address),) = [args for event, args in events if event == "socket.connect"]
            assert type(sock) is socket.socket, sock
            assert address == listener.getsockname(), address
    """
    run_child(loop_name, code)


def test_an_audit_hook_may_forbid_it(loop_name):
    code = """
        import asyncio, socket, sys

        def forbid(event, args):
            if event == "socket.connect":
                raise PermissionError("not today")

        loop = new_event_loop()
        sys.addaudithook(forbid)
        try:
            loop.run_until_complete(loop.create_connection(asyncio.Protocol, "127.0.0.1", 9))
        except PermissionError as error:
            assert str(error) == "not today"
        else:
            raise AssertionError("connected")
        loop.close()
    """
    run_child(loop_name, code)


async def test_debug_mode_logs_the_connection(loop, listener, caplog):
    loop.set_debug(True)
    caplog.set_level(logging.DEBUG, "asyncio")
    host, port = listener.getsockname()
    await come_and_go(loop, (host, port))
    pattern = re.compile(rf"<.*[sS]ocket.*> connected to {host}:{port}: \(<.*>, <.*>\)")
    assert [message for message in caplog.messages if pattern.fullmatch(message)]


# --- what a connection is -------------------------------------------------------------------------


async def test_the_socket_of_a_connection(loop, listener):
    transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
    sock = transport.get_extra_info("socket")
    assert (sock.family, sock.type, sock.proto) == (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    assert sock.gettimeout() == 0
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not sock.get_inheritable()
    assert sock.getsockname() == transport.get_extra_info("sockname")
    transport.close()
    await protocol.lost
    assert sock.fileno() == -1


async def test_the_addresses_are_known_after_the_end(loop, listener):
    transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
    name = transport.get_extra_info("sockname")
    transport.close()
    await protocol.lost
    assert transport.get_extra_info("sockname") == name
    assert transport.get_extra_info("peername") == listener.getsockname()


async def test_the_protocol_is_made_once_the_connection_is(loop, refused):
    made = []
    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(lambda: made.append(1), *refused)
    assert not made


async def test_connection_made_comes_before_the_result(loop, listener):
    order = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            order.append("made")

    transport, protocol = await loop.create_connection(Protocol, *listener.getsockname())
    order.append("result")
    assert order == ["made", "result"]
    transport.close()
    await protocol.lost


async def test_the_context_of_a_protocol(loop, listener):
    before, within = contextvars.ContextVar("before"), contextvars.ContextVar("within")
    before.set(1)

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.context = before.get(0), within.get(0)

    def factory():
        within.set(2)
        return Protocol()

    transport, protocol = await loop.create_connection(factory, *listener.getsockname())
    assert protocol.context == ((1, 0) if sys.version_info >= (3, 15) else (1, 2))
    assert within.get(0) == 2
    transport.close()
    await protocol.lost


@pytest.mark.differs(
    "the socket is left to the garbage collector", when=sys.version_info < (3, 15), run=sys.version_info >= (3, 14)
)
async def test_a_protocol_factory_that_raises_closes_the_socket(loop, listener):
    def factory():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await loop.create_connection(factory, *listener.getsockname())
    listener.settimeout(10)
    accepted, _ = listener.accept()
    with accepted:
        accepted.settimeout(10)
        # The exception, whose frames may hold the socket, is still there.
        assert accepted.recv(1) == b""
    assert caught.type is ZeroDivisionError


async def test_a_connection_that_takes_its_time(loop):
    """The first packet is lost, and sent again after a second: `connect` could not wait for it."""
    with socket.socket() as listener, contextlib.ExitStack() as others:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first = others.enter_context(socket.create_connection(listener.getsockname()))
        task = loop.create_task(loop.create_connection(Recorder, *listener.getsockname()))
        done, _ = await asyncio.wait([task], timeout=0.05)
        assert not done
        for _ in range(2):
            accepted, address = await loop.run_in_executor(None, listener.accept)
            others.enter_context(accepted)
            if address == first.getsockname():
                continue
            transport, protocol = await task
            assert transport.get_extra_info("sockname") == address
            assert transport.get_extra_info("peername") == listener.getsockname()
            accepted.sendall(b"hello")
            assert await protocol.received(5) == b"hello"
            transport.close()
            await protocol.lost


# --- errors ---------------------------------------------------------------------------------------


async def test_a_refusal_names_the_address_as_it_was_given(loop, refused):
    with pytest.raises(ConnectionRefusedError) as caught:
        await loop.create_connection(Recorder, *refused)
    assert caught.value.args == (errno.ECONNREFUSED, f"Connect call failed {refused}")
    assert caught.value.__context__ is None
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.create_connection(Recorder, "0::1", port)
    assert caught.value.args == (errno.ECONNREFUSED, f"Connect call failed {('0::1', port, 0, 0)}")


async def test_an_error_that_comes_at_once_is_the_system_s(loop):
    with pytest.raises(OSError) as caught:
        await loop.create_connection(Recorder, "255.255.255.255", 80)
    assert caught.value.args == (errno.ENETUNREACH, "Network is unreachable")


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("options", [{}, {"family": socket.AF_INET}, {"local_addr": ("127.0.0.1", 0)}])
async def test_a_refusal_leaves_no_cycle(loop, refused, options, debug):
    loop.set_debug(debug)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        with contextlib.suppress(ConnectionRefusedError):
            await loop.create_connection(Recorder, *refused, **options)
        await asyncio.sleep(0)  # the future of the attempt, which has woken us, is held until then
        gc.collect()
        assert not [found for found in gc.garbage if isinstance(found, OSError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
