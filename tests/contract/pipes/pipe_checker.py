"""What can be used like a pipe, and a look at it."""

# What a pipe transport accepts, each way.
KINDS = ("pipe", "fifo", "unix", "tcp", "terminal")


async def until_readable(loop, file):
    """Return once there is something to read, without reading it."""
    readable = loop.create_future()
    loop.add_reader(file, lambda: readable.done() or readable.set_result(None))
    await readable
    loop.remove_reader(file)
