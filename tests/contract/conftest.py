"""The loop under test, and what is expected of it when a test ends.

A test is a plain function, or a coroutine function that runs on the fixture `loop`. After each test the loop has
reported nothing that the test did not take from `reports`, and every descriptor is closed.
"""

import asyncio
import gc
import inspect
import socket

import pytest
from checker import STREAM_KINDS, connect_stream
from support import open_fds


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    pyfuncitem.funcargs["loop"].run_until_complete(pyfuncitem.obj(**{n: pyfuncitem.funcargs[n] for n in names}))
    return True


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open():
    before = open_fds()
    yield
    if open_fds() != before:
        gc.collect()
    after = open_fds()
    leaked = {fd: after[fd] for fd in after if fd not in before}
    assert not leaked, f"left open: {leaked}"
    assert len(after) == len(before), f"closed, but not opened by the test: {before.keys() - after.keys()}"


class Reports(list):
    """The contexts that the loop handed to its exception handler."""

    def take(self):
        """The one context reported since the last look."""
        (context,) = self
        self.clear()
        return context


@pytest.fixture
def reports():
    return Reports()


@pytest.fixture
def loop(new_loop, reports, no_descriptor_is_left_open):
    loop = new_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    yield loop
    if not loop.is_closed():
        loop.set_debug(False)
        tasks = asyncio.all_tasks(loop)
        if tasks:
            # Handlers of connections may be about to end: a loop need not look for I/O at each turn.
            loop.run_until_complete(asyncio.wait(tasks, timeout=0.1))
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert not reports, f"reported to the exception handler: {reports}"


@pytest.fixture
def socket_pair():
    """Two connected non-blocking Unix sockets."""
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


@pytest.fixture
def tcp_pair():
    """Two connected non-blocking TCP sockets that hold little, so that sending has to wait."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    with one, other:
        for sock in (one, other):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        yield one, other


@pytest.fixture(params=STREAM_KINDS)
def stream(request, loop):
    """Makes (transport, protocol, peer socket) triples of one kind; all are closed at the end."""
    streams = []

    async def connect(protocol, **options):
        opened = await connect_stream(loop, request.param, protocol, **options)
        streams.append(opened)
        return opened

    connect.kind = request.param
    yield connect

    async def close_all():
        for transport, protocol, peer in streams:
            peer.close()
            if not protocol.lost.done():
                transport.abort()
        await asyncio.gather(*(protocol.lost for _, protocol, _ in streams))

    if streams and not loop.is_closed():
        loop.run_until_complete(close_all())
