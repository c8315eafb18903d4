"""What a micro workload is, and what they share."""

import asyncio
import contextlib
import functools
from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class MicroWorkload:
    name: str
    function: Callable  # of a loop, or of what makes loops, and the number of operations
    chunk: int  # operations between two looks at the clock: some 5 to 50 ms
    repeatable: bool  # the same work in each run: no thread, clock or other process decides
    makes_loops: bool  # its function takes a factory, as asyncio.Runner does, and no loop

    cost = "cpu_us"

    @contextlib.contextmanager
    def on(self, factory):
        """A function of the number of operations, which does them on a loop, or on loops, of the factory."""
        if self.makes_loops:
            yield functools.partial(self.function, factory)
            return
        with contextlib.closing(factory()) as loop:
            asyncio.set_event_loop(loop)
            yield functools.partial(self.function, loop)


def workload(*, chunk, repeatable=True, makes_loops=False):
    """Make a function a workload of the same name."""

    def make(function):
        return MicroWorkload(function.__name__.replace("_", "-"), function, chunk, repeatable, makes_loops)

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
