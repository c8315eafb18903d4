"""Callbacks of the loop's own thread."""

from .workload import batches, expect, workload


@workload(chunk=5_000)
def call_soon_chain(loop, operations):
    """Each callback schedules the next: one callback a tick."""
    left = operations

    def step():
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            loop.stop()

    loop.call_soon(step)
    loop.run_forever()
    expect(operations - left, operations)


@workload(chunk=20_000)
def call_soon_batch(loop, operations):
    """10,000 callbacks queued, then run in one tick."""
    done = 0

    def callback():
        nonlocal done
        done += 1

    for size in batches(operations, 10_000):
        for _ in range(size):
            loop.call_soon(callback)
        loop.call_soon(loop.stop)
        loop.run_forever()
    expect(done, operations)


@workload(chunk=20_000)
def call_soon_3_arguments(loop, operations):
    """As call-soon-batch, each callback taking three arguments."""
    done = 0

    def callback(first, second, third):
        nonlocal done
        done += third

    for size in batches(operations, 10_000):
        for _ in range(size):
            loop.call_soon(callback, loop, None, 1)
        loop.call_soon(loop.stop)
        loop.run_forever()
    expect(done, operations)
