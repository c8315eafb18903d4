"""Look-ups of names that a test begins, holds up, cancels and ends."""

import asyncio
import queue
import threading

# Only against hanging.
PATIENCE = 60

MOST_THREADS = 32


def resolver_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("velodrome-resolver_")]


def join_all(threads):
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


class Blocked:
    """A `getaddrinfo` that answers when the test has released it, with what it was asked for."""

    def __init__(self):
        self.asked = []
        self.released = threading.Event()
        self._begun = queue.SimpleQueue()

    def __call__(self, host, port, *_):
        self.asked.append(host)
        self._begun.put(threading.current_thread())
        assert self.released.wait(PATIENCE)
        return [host]

    def wait_for(self, count):
        """The threads of the next look-ups to begin."""
        return [self._begun.get(timeout=PATIENCE) for _ in range(count)]


def start(loop, *hosts):
    """A task for each look-up, in the middle of it."""
    tasks = [loop.create_task(loop.getaddrinfo(host, 80)) for host in hosts]
    run_once(loop)
    return tasks


def run_once(loop):
    loop.run_until_complete(asyncio.sleep(0))


def finish(loop, awaitables):
    async def gather():
        return await asyncio.gather(*awaitables)

    return loop.run_until_complete(gather())


def cancel(loop, *tasks):
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.wait(tasks))
    assert all(task.cancelled() for task in tasks)
