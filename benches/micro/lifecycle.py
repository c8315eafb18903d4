"""From the start of a loop to its end."""

from .workload import expect, one, workload


@workload(chunk=1_000)
def run_until_complete(loop, operations):
    """`run_until_complete` of a coroutine that returns at once."""
    done = 0
    for _ in range(operations):
        done += loop.run_until_complete(one())
    expect(done, operations)
