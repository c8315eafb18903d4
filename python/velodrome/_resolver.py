"""Threads for look-ups of names: a loop's own, beside its default executor.

A name server that does not answer keeps a thread for half a minute. In the default executor such
threads keep other work waiting, and the end of the program: `asyncio.run` and the interpreter
wait for them. Nobody waits for these here. They are daemons, and what they find after the loop
was closed is dropped.

The loop has a `Resolver`, which has the futures. The threads share a `_Pool`, which knows of the
resolver by a weak reference alone: a thread that waits, or is busy, keeps no loop alive.
"""

import asyncio.futures
import collections
import itertools
import os
import threading
import weakref
from asyncio.log import logger

_MOST_THREADS = 32
_IDLE_SECONDS = 10

_convert_exception = asyncio.futures._convert_future_exc  # type: ignore[attr-defined]


class Resolver:
    """Looks names up for one loop. What has no underscore belongs to the loop's thread."""

    def __init__(self, loop):
        self._loop = weakref.ref(loop)
        self._futures = {}
        self._numbers = itertools.count()
        self._pool = _Pool(self)
        self._process = os.getpid()

    def is_here(self):
        """Whether the threads are this process's, and not its parent's."""
        return self._process == os.getpid()

    async def look_up(self, function, arguments):
        """Call the function in a thread, and return or raise what it does.

        At most 32 are called at once; others wait for their turn, first come first served.
        """
        number = next(self._numbers)
        # No variable for the future: an exception refers to this frame, and the future to it.
        self._futures[number] = self._loop().create_future()
        try:
            self._pool.submit(number, function, arguments)
            return await self._futures[number]
        finally:
            self._futures.pop(number, None)
            self._pool.forget(number)

    def deliver(self, number, result, error):
        """Take a look-up's result, or its error, from a thread."""
        future = self._futures.pop(number, None)
        if future is None or future.done():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, StopIteration):
            # 3.11's futures, and early 3.12's, refuse it, and this one would never be done.
            refused = RuntimeError(
                "StopIteration interacts badly with generators and cannot be raised into a Future"
            )
            refused.__cause__ = error
            future.set_exception(refused)
        else:
            future.set_exception(_convert_exception(error))

    def close(self):
        """Drop what waits, and let the threads end: the idle ones at once, the others when done."""
        self._futures.clear()
        self._pool.close()

    def _is_awaited(self, number):
        future = self._futures.get(number)
        return future is not None and not future.done()

    def _send(self, number, result, error):
        loop = self._loop()
        if loop is None or not self._is_awaited(number):
            return
        try:
            loop.call_soon_threadsafe(self.deliver, number, result, error)
        except Exception:
            if not loop.is_closed():
                logger.exception("The result of a look-up was refused by %r", loop)


class _Pool:
    """The threads of one resolver, and what waits for them."""

    def __init__(self, resolver):
        self._resolver = weakref.ref(resolver)
        self._waiting = collections.OrderedDict()
        # The lock is reentrant: the garbage collector may close a forgotten loop at any time, in a
        # thread of the loop's own pool, too.
        self._changed = threading.Condition(threading.RLock())
        self._threads = 0
        # Those that will see what waits: they sleep, have just been started, or hand a result in.
        self._idle = 0
        self._closed = False
        self._names = itertools.count()

    def submit(self, number, function, arguments):
        """Have the function called by a thread that is idle, or new, or else the next one free.

        Raises RuntimeError if there is no thread, and none can be started.
        """
        with self._changed:
            self._waiting[number] = function, arguments
            if self._idle >= len(self._waiting):
                self._changed.notify()
                return
            if self._threads >= _MOST_THREADS:
                return
            self._count(threads=1, idle=1)
            name = f"velodrome-resolver_{next(self._names)}"
        try:
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        except RuntimeError:
            self._count(threads=-1, idle=-1)
            if not self._threads:
                raise

    def forget(self, number):
        """Drop a look-up that has not begun.

        Without the lock, which in the child of a fork may belong to a thread that is not there.
        """
        self._waiting.pop(number, None)

    def close(self):
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _count(self, *, threads=0, idle):
        with self._changed:
            self._threads += threads
            self._idle += idle

    def _serve(self):
        while (waiting := self._next()) is not None:
            number, (function, arguments) = waiting
            # An error refers to this frame: no variable for it here.
            self._send(number, *self._call(number, function, arguments))
            # Not to be kept until there is something else to do.
            del waiting, function, arguments

    def _next(self):
        """Wait for something to do; None means that this thread shall end."""
        with self._changed:
            woken = True
            while not self._closed:
                try:
                    waiting = self._waiting.popitem(last=False)
                except KeyError:
                    if not woken:
                        break
                    woken = self._changed.wait(_IDLE_SECONDS)
                else:
                    self._count(idle=-1)
                    return waiting
            # With the lock still held: from now on nobody counts on this thread.
            self._count(threads=-1, idle=-1)
            return None

    def _call(self, number, function, arguments):
        """Return the function's result and its error, one of them None."""
        try:
            resolver = self._resolver()
            if resolver is None or not resolver._is_awaited(number):
                return None, None
            del resolver
            return function(*arguments), None
        except BaseException as error:
            return None, error
        finally:
            # Before the result is known: who asks for something next finds this thread idle.
            self._count(idle=1)

    def _send(self, number, result, error):
        resolver = self._resolver()
        if resolver is not None:
            resolver._send(number, result, error)
