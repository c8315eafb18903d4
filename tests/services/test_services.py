"""Frameworks that people serve with, over real sockets, with every byte compared."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import child_environment, run_child

PROGRAMS = Path(__file__).parent / "programs"


@pytest.mark.parametrize("client", ["http", "http-chunked", "http-close", "http-pipelined", "websocket"])
@pytest.mark.parametrize("server", ["uvicorn-httptools", "uvicorn-h11"])
def test_uvicorn_answers(service, load, server, client):
    assert load(client, service(server).port) >= 300


@pytest.mark.parametrize(
    "client", ["http", "http-chunked", "http-close", "http-pipelined", "websocket-path", "aiohttp-websocket"]
)
def test_aiohttp_answers(service, load, client):
    assert load(client, service("aiohttp").port) >= 300


def test_websockets_answers(service, load):
    assert load("websocket", service("websockets").port) == 1200


@pytest.mark.parametrize("client", ["anyio", "streams"])
@pytest.mark.parametrize("server", ["anyio", "streams"])
def test_a_byte_stream_answers(service, load, server, client):
    assert load(client, service(server).port) == 600


def test_several_processes_of_clients_at_once(service, loads):
    assert loads(["http", "http-close"], service("aiohttp").port) == [600, 300]


@pytest.mark.parametrize(("server", "kind"), [("streams", "echo"), ("uvicorn-httptools", "http"), ("aiohttp", "http")])
def test_ten_thousand_connections_leave_nothing_behind(service, connections, server, kind):
    """Descriptors, threads and memory are where they were before."""
    running = service(server)
    assert connections(kind, running.port, 2000) == 2000  # warm-up: caches and free lists fill
    before = running.settled()
    resident = running.resident_bytes()
    assert connections(kind, running.port, 10_000) == 10_000
    assert running.settled() == before
    # 400 bytes a connection: less than a transport, a protocol or a socket takes.
    assert running.resident_bytes() - resident < 4 << 20


# --- programs that find their loop themselves -----------------------------------------------------


def test_uvicorn_takes_the_loop_by_its_name(connections, loop_name):
    """`uvicorn --loop NAME`: started by its own command, asked, and ended by Ctrl-C."""
    factory = "asyncio:SelectorEventLoop" if loop_name == "asyncio" else f"{loop_name}:new_event_loop"
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--app-dir", PROGRAMS, "--port", "0", "--loop", factory, "serve:asgi_app"],
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with server:
        output = ""
        while "running on" not in output:
            line = server.stdout.readline()
            assert line, output
            output += line
        port = int(output.rsplit("http://127.0.0.1:", 1)[1].split()[0])
        assert connections("http", port, 20) == 20
        server.send_signal(signal.SIGINT)
        output += server.communicate(timeout=60)[0]
    assert "Finished server process" in output
    assert "Traceback" not in output


def test_anyio_runs_on_the_loop(loop_name):
    code = """
        import anyio, anyio.from_thread, asyncio, sys

        def in_thread():
            return anyio.from_thread.run(anyio.sleep, 0)

        async def main():
            print(type(asyncio.get_running_loop()).__name__)
            await anyio.to_thread.run_sync(in_thread)
            with anyio.move_on_after(0.01) as scope:
                await anyio.sleep_forever()
            assert scope.cancelled_caught
            result = await anyio.run_process([sys.executable, "-c", "print('child')"])
            print(result.stdout.decode().strip())
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                group.cancel_scope.cancel()
            send, receive = anyio.create_memory_object_stream(1)
            async with send, receive:
                await send.send("message")
                print(await receive.receive())

        anyio.run(main, backend_options={"loop_factory": new_event_loop})
    """
    name = {"asyncio": "_UnixSelectorEventLoop"}.get(loop_name, "Loop")
    assert run_child(loop_name, code).stdout.split() == [name, "child", "message"]
