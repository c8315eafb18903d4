"""The loop and other threads. The CPU time of all of them counts."""

import threading

from .workload import expect, workload


@workload(chunk=20_000, repeatable=False)
def call_soon_threadsafe_flood(loop, operations):
    """Another thread posts callbacks as fast as it can; both threads' CPU time counts."""
    done = 0

    def callback():
        nonlocal done
        done += 1
        if done == operations:
            loop.stop()

    def post():
        for _ in range(operations):
            loop.call_soon_threadsafe(callback)

    thread = threading.Thread(target=post)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    expect(done, operations)
