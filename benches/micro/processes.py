"""Signals, and child processes. Only the CPU time of the loop's own process counts."""

import asyncio
import os
import signal
from asyncio.subprocess import PIPE

from .workload import expect, workload


@workload(chunk=1_000)
def signals(loop, operations):
    """A signal handler that sends its process the same signal again."""
    done = 0

    def send():
        os.kill(os.getpid(), signal.SIGUSR1)

    def handle():
        nonlocal done
        done += 1
        if done < operations:
            send()
        else:
            loop.stop()

    loop.add_signal_handler(signal.SIGUSR1, handle)
    loop.call_soon(send)
    loop.run_forever()
    loop.remove_signal_handler(signal.SIGUSR1)
    expect(done, operations)


@workload(chunk=20, repeatable=False)
def subprocess_wait(loop, operations):
    """`create_subprocess_exec` of a program that ends at once, and `wait`."""

    async def main():
        done = 0
        for _ in range(operations):
            process = await asyncio.create_subprocess_exec("false")
            done += await process.wait() == 1
        expect(done, operations)

    loop.run_until_complete(main())


@workload(chunk=20, repeatable=False)
def subprocess_communicate(loop, operations):
    """`create_subprocess_exec` of `cat`, and `communicate` of 1 KiB."""
    message = bytes(range(256)) * 4

    async def main():
        done = 0
        for _ in range(operations):
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
            answer, _ = await process.communicate(message)
            done += (answer, process.returncode) == (message, 0)
        expect(done, operations)

    loop.run_until_complete(main())
