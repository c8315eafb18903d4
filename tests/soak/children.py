"""Child processes."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE

from activity import activity, check, ended, some_bytes


@contextlib.asynccontextmanager
async def child_process(*command, **options):
    child = await asyncio.create_subprocess_exec(*command, **options)
    try:
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        # The loop takes the status; the pipes end with the child.
        child._transport.close()


@activity
async def a_child_that_answers(soak, rng):
    data = some_bytes(rng)
    async with child_process("cat", stdin=PIPE, stdout=PIPE) as child:
        output, _ = await child.communicate(data)
        check(output == data, "another output")
        check(await child.wait() == 0, "another status")


@activity
async def a_child_that_is_killed(soak, rng):
    options = {} if rng.random() < 0.5 else {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
    async with child_process("sleep", "60", **options) as child:
        await asyncio.sleep(rng.choice([0, 0, 0.001]))
        number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGALRM])
        child.send_signal(number)
        waiting = [asyncio.ensure_future(child.wait()) for _ in range(rng.randrange(1, 4))]
        check(set(await asyncio.gather(*waiting)) == {-number}, "another status")


@activity
async def a_child_that_is_cancelled(soak, rng):
    """Given up at whatever point of its start."""

    async def start():
        async with child_process("sleep", "60", stdin=PIPE, stdout=rng.choice([PIPE, DEVNULL])) as child:
            await child.wait()

    starting = asyncio.ensure_future(start())
    try:
        for _ in range(rng.randrange(8)):
            await asyncio.sleep(0)
    finally:
        await ended(starting)
    check(starting.cancelled(), "not cancelled")


@activity
async def a_child_that_fails(soak, rng):
    status = rng.randrange(256)
    child = await asyncio.create_subprocess_shell(f"echo failing; exit {status}", stdout=PIPE, stderr=DEVNULL)
    try:
        check(await child.stdout.readline() == b"failing\n", "another output")
        check(await child.wait() == status, "another status")
    finally:
        child._transport.close()
    with contextlib.suppress(FileNotFoundError):
        await asyncio.create_subprocess_exec(os.path.join(soak.folder, "missing"), stdout=PIPE)
        check(False, "it was not there")


@activity
async def a_child_with_a_protocol(soak, rng):
    loop = soak.loop
    done = loop.create_future()

    class Protocol(asyncio.SubprocessProtocol):
        def __init__(self):
            self.calls = []

        def pipe_data_received(self, fd, data):
            self.calls.append((fd, data))

        def pipe_connection_lost(self, fd, exc):
            self.calls.append(("lost", fd))

        def process_exited(self):
            self.calls.append("exited")

        def connection_lost(self, exc):
            if not done.done():
                done.set_result(exc)

    transport, protocol = await loop.subprocess_exec(Protocol, "sh", "-c", "read x; echo $x >&2; exit 5")
    try:
        transport.get_pipe_transport(0).write(b"input\n")
        check(await done is None, "an error")
        check(transport.get_returncode() == 5, "another status")
        check((2, b"input\n") in protocol.calls, f"{protocol.calls}")
        check({("lost", 1), ("lost", 2), "exited"} <= set(protocol.calls), f"{protocol.calls}")
    finally:
        done.cancel()
        transport.close()
