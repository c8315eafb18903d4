"""Is what was installed a working velodrome? `python tests/smoke.py [VERSION]`, where it is installed.

It needs nothing but velodrome, and for TLS the program openssl: a wheel is tried out with it as it is.
"""

import asyncio
import contextlib
import importlib.metadata
import io
import os
import runpy
import sys
import tempfile
import threading
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
import certificates


def has_unwinder():
    with open("/proc/self/maps") as maps:
        return "libgcc_s" in maps.read()


had_unwinder = has_unwinder()  # CPython 3.15 needs it itself
import velodrome


def is_installed(version):
    """It is what pip put there, not what lies in the source tree."""
    package = importlib.metadata.distribution("velodrome").locate_file("velodrome")
    for file in (velodrome.__file__, velodrome._native.__file__):
        assert Path(file).parent == package, f"{file} is not in {package}"
    assert (package / "py.typed").exists()
    assert version in (None, velodrome.__version__), f"this is {velodrome.__version__}, not {version}"


def needs_no_unwinder():
    """The import loads none: a loop opens the system's before it sleeps."""
    assert had_unwinder or not has_unwinder()


def tells_of_itself():
    sys.argv = ["velodrome", "--info"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_module("velodrome", run_name="__main__")
    assert printed.getvalue().startswith(f"velodrome: {velodrome.__version__}\n"), printed.getvalue()
    return printed.getvalue()


async def exchange(*, server=None, client=None):
    """A megabyte there and back."""
    assert type(asyncio.get_running_loop()) is velodrome.Loop
    served = asyncio.Event()

    async def echo(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        served.set()

    listening = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        host = "localhost" if client else None
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=host)
        message = os.urandom(1 << 20)

        async def send():
            writer.write(message)
            await writer.drain()

        sending = asyncio.create_task(send())
        assert await reader.readexactly(len(message)) == message
        await sending
        writer.close()
        await writer.wait_closed()
        await served.wait()


async def child():
    process = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(b"through a child")
    assert (out, process.returncode) == (b"through a child", 0)


def end_in_the_middle():
    """The interpreter ends while a loop in a daemon thread calls Python: its stack may have to be unwound."""
    at_work = threading.Event()

    def work():
        at_work.set()
        while True:
            pass

    def run():
        loop = velodrome.new_event_loop()
        loop.call_soon(work)
        loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    at_work.wait()


def main(version=None):
    is_installed(version)
    needs_no_unwinder()
    facts = tells_of_itself()
    velodrome.run(exchange())
    with tempfile.TemporaryDirectory() as folder:
        made = certificates.Certificates(Path(folder))
        velodrome.run(exchange(server=made.server_context(), client=made.client_context()))
    velodrome.run(child())
    print(facts, end="", flush=True)
    end_in_the_middle()


if __name__ == "__main__":
    main(*sys.argv[1:])
