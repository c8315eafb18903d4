"""A typed program over velodrome's public names: checked by mypy and pyright for each Python, then run.

Only names and types matter here; what the loop does is tested elsewhere.
"""

import asyncio
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import assert_type

import velodrome


async def add(left: int, right: int) -> int:
    await asyncio.sleep(0)
    return left + right


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


def wants_any_loop(loop: asyncio.AbstractEventLoop) -> bool:
    return loop.is_running()


async def methods(loop: velodrome.Loop) -> None:
    """What asyncio's loop declares is declared of this one, too: nothing is untyped, or Any without need."""
    assert wants_any_loop(loop)
    assert_type(await loop.create_task(add(1, 1), name="sum"), int)
    assert_type(await loop.run_in_executor(None, len, "text"), int)
    loop.set_default_executor(ThreadPoolExecutor(1))
    loop.add_signal_handler(signal.SIGUSR1, print, "signal")
    assert_type(loop.remove_signal_handler(signal.SIGUSR1), bool)

    server = await loop.create_server(Greeting, "127.0.0.1", 0)
    assert_type(server, asyncio.Server)
    host, port = server.sockets[0].getsockname()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, found[0][4])
        assert_type(await loop.sock_recv(client, 100), bytes)
        loop.add_reader(client, print)
        assert_type(loop.remove_reader(client), bool)
    transport, protocol = await loop.create_connection(Greeting, host, port)
    assert_type(transport, asyncio.Transport)
    assert_type(protocol, Greeting)
    transport.close()
    server.close()

    with tempfile.TemporaryDirectory() as folder:
        (await loop.create_unix_server(Greeting, f"{folder}/socket", mode=0o600)).close()
    process = await asyncio.create_subprocess_exec("true")
    assert_type(await process.wait(), int)


# A loop is an asyncio loop, wherever one is asked for.
factory: Callable[[], asyncio.AbstractEventLoop] = velodrome.new_event_loop
loop: velodrome.Loop = velodrome.new_event_loop()
abstract: asyncio.AbstractEventLoop = loop
by_class: Callable[[], asyncio.AbstractEventLoop] = velodrome.Loop


class Derived(velodrome.Loop):
    def answer(self) -> int:
        return 42


derived: Callable[[], asyncio.AbstractEventLoop] = Derived


def mistakes(loop: velodrome.Loop) -> None:
    """Both complain of a comment that silences nothing, too."""
    print(velodrome.no_such_name)  # type: ignore
    loop.no_such_name()  # type: ignore
    velodrome.Loop(42)  # type: ignore
    loop.call_soon()  # type: ignore
    loop.call_later("soon", print)  # type: ignore
    loop.add_reader(0)  # type: ignore
    len(velodrome.run(add(1, 2)))  # type: ignore
    velodrome.run(42)  # type: ignore


total: int = loop.run_until_complete(add(1, 2))
called: list[str] = []
handle: asyncio.Handle = loop.call_soon(called.append, "soon")
timer: asyncio.TimerHandle = loop.call_later(0, called.append, "later")
due: float = timer.when()
loop.call_soon_threadsafe(loop.stop)
loop.run_forever()
closed: bool = loop.is_closed()
loop.close()

# velodrome.run returns what the coroutine returns, as asyncio.run does.
sum_of_run: int = velodrome.run(add(3, 4))
sum_in_debug: int = velodrome.run(add(3, 4), debug=True)
sum_elsewhere: int = velodrome.run(add(3, 4), loop_factory=asyncio.SelectorEventLoop)

with asyncio.Runner(loop_factory=Derived) as runner:
    assert runner.get_loop().time() > 0
with asyncio.Runner(loop_factory=velodrome.new_event_loop) as runner:
    sum_of_runner: int = runner.run(add(5, 6))

loop = velodrome.new_event_loop()
loop.run_until_complete(methods(loop))
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()

if sys.version_info < (3, 14):  # later ones deprecate policies, or have none
    policy: asyncio.AbstractEventLoopPolicy = velodrome.EventLoopPolicy()
install: Callable[[], None] = velodrome.install
uninstall: Callable[[], None] = velodrome.uninstall
version: str = velodrome.__version__

assert (total, sum_of_run, sum_in_debug, sum_elsewhere, sum_of_runner) == (3, 7, 7, 7, 11)
assert "soon" in called and not closed and due > 0 and version
print("typed sample: ran on", type(abstract).__module__)
