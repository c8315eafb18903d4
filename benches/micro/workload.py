"""What a micro workload is, and what they share."""

from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class MicroWorkload:
    name: str
    function: Callable  # of a loop and the number of operations
    chunk: int  # operations between two looks at the clock: some 5 to 50 ms
    repeatable: bool  # the same work in each run: no thread or clock decides

    cost = "cpu_us"


def workload(*, chunk, repeatable=True):
    """Make a function a workload of the same name."""

    def make(function):
        return MicroWorkload(function.__name__.replace("_", "-"), function, chunk, repeatable)

    return make


class MissingOperations(Exception):
    """The loop did not do what it was asked; its time means nothing."""


def expect(done, operations):
    if done != operations:
        raise MissingOperations(f"{operations} operations were asked for, {done} happened")


def batches(total, size):
    """Split `total` into parts of `size` and, where it does not divide, a smaller last one."""
    while total > 0:
        yield min(size, total)
        total -= size


async def one():
    return 1
