"""What can be used like a pipe, and a look at it."""

import contextvars

from checker import Recorder

# What a pipe transport accepts, each way.
KINDS = ("pipe", "fifo", "unix", "tcp", "terminal")

WHO = contextvars.ContextVar("WHO", default="nobody")


class Contextual(Recorder):
    """Writes down in which context each call came."""

    def __init__(self):
        super().__init__()
        self.contexts = {}

    def note(self, call):
        self.contexts[call] = WHO.get()
        super().note(call)


async def until_readable(loop, file):
    """Return once there is something to read, without reading it."""
    readable = loop.create_future()
    loop.add_reader(file, lambda: readable.done() or readable.set_result(None))
    await readable
    loop.remove_reader(file)
