"""What activities share.

An activity is a coroutine function of the soak run and a random generator, from which all its choices come, so that
they do not depend on what else is going on. It may be cancelled at any moment, leaves nothing behind, and tells with
`check` what is not as it should be.
"""

import asyncio
import os

LOCALHOST = "127.0.0.1"

ACTIVITIES = {}


class Expected(Exception):
    """Raised on purpose; the exception handler takes no notice of it."""


def activity(function):
    ACTIVITIES[function.__name__] = function
    return function


def check(condition, text="no"):
    # Not an assert statement: those can be turned off.
    if not condition:
        raise AssertionError(text)


def unix_path(soak, rng):
    return os.path.join(soak.folder, f"{rng.getrandbits(60):x}")


def some_bytes(rng, at_most=200_000):
    return rng.randbytes(rng.choice([0, 1, 100, 5000, rng.randrange(at_most)]))


def pieces(rng, data):
    """The data in random pieces, each of a type that a transport takes."""
    at = 0
    while at < len(data):
        size = rng.choice([1, 100, 10_000, 100_000])
        yield rng.choice([bytes, bytearray, memoryview])(data[at : at + size])
        at += size


async def to_the_end(coroutine, undo):
    """Await something that must not be lost halfway: cancelled meanwhile, it is done first, and then undone."""
    task = asyncio.ensure_future(coroutine)
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        if task.exception() is None:
            undo(task.result())
        raise cancelled
    return task.result()


async def ended(*tasks):
    """Cancel tasks and wait for their ends, which tell nothing any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
