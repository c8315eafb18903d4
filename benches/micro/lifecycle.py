"""From the start of a loop to its end."""

import asyncio

from .workload import expect, one, workload


@workload(chunk=1_000)
def run_until_complete(loop, operations):
    """`run_until_complete` of a coroutine that returns at once."""
    done = 0
    for _ in range(operations):
        done += loop.run_until_complete(one())
    expect(done, operations)


@workload(chunk=200, makes_loops=True)
def asyncio_run(factory, operations):
    """`asyncio.run` of a coroutine that returns at once: a loop is made, cleaned up and closed."""
    done = 0
    for _ in range(operations):
        # What asyncio.run consists of; its own argument for a factory is newer than Python 3.11.
        with asyncio.Runner(loop_factory=factory) as runner:
            done += runner.run(one())
    expect(done, operations)


@workload(chunk=500, makes_loops=True)
def loop_create_and_close(factory, operations):
    """A new loop, closed without having run."""
    done = 0
    for _ in range(operations):
        loop = factory()
        loop.close()
        done += loop.is_closed()
    expect(done, operations)
