"""The loop and other threads. The CPU time of all of them counts."""

import socket
import threading

from .workload import expect, workload


def run_beside(loop, function):
    """Run the loop until it is stopped, and from its start on `function` in a thread."""
    thread = threading.Thread(target=function)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


@workload(chunk=20_000, repeatable=False)
def call_soon_threadsafe_flood(loop, operations):
    """Another thread posts callbacks as fast as it can."""
    done = 0

    def callback():
        nonlocal done
        done += 1
        if done == operations:
            loop.stop()

    def post():
        for _ in range(operations):
            loop.call_soon_threadsafe(callback)

    run_beside(loop, post)
    expect(done, operations)


@workload(chunk=1_000, repeatable=False)
def call_soon_threadsafe_ping_pong(loop, operations):
    """Another thread posts a callback, which wakes it: the loop and the thread sleep in turn."""
    done = 0
    turn = threading.Lock()  # free when it is the thread's
    turn.acquire()

    def callback():
        nonlocal done
        done += 1
        turn.release()

    def post():
        for _ in range(operations):
            loop.call_soon_threadsafe(callback)
            turn.acquire()
        loop.call_soon_threadsafe(loop.stop)

    run_beside(loop, post)
    expect(done, operations)


@workload(chunk=500, repeatable=False)
def run_in_executor(loop, operations):
    """`run_in_executor` of a function that returns at once, awaited; one after the other."""

    async def main():
        done = 0
        for _ in range(operations):
            done += await loop.run_in_executor(None, threading.get_ident) != threading.get_ident()
        expect(done, operations)

    loop.run_until_complete(main())


@workload(chunk=1_000, repeatable=False)
def getaddrinfo_numeric(loop, operations):
    """`getaddrinfo` of an address that is a number already: asyncio asks a thread, a loop need not."""

    async def main():
        done = 0
        for _ in range(operations):
            ((*_, address),) = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
            done += address == ("127.0.0.1", 80)
        expect(done, operations)

    loop.run_until_complete(main())
