"""A loop in a thread of its own, for a program that is not asynchronous.

    python examples/background_loop.py

The class is what to copy: it starts the thread, runs coroutines for whoever asks, and ends in order.
"""

import asyncio
import threading

import velodrome


class BackgroundLoop:
    """A running loop beside this thread; use it in a `with` statement."""

    def __enter__(self):
        self._runner = asyncio.Runner(loop_factory=velodrome.new_event_loop)
        self._loop = self._runner.get_loop()  # made here, so that it is there when __enter__ returns
        self._ended = asyncio.Event()
        # The runner's end cancels what is left, so it belongs to the thread, too.
        self._thread = threading.Thread(target=self._run, name="background loop")
        self._thread.start()
        return self

    def _run(self):
        with self._runner:
            self._runner.run(self._ended.wait())

    def __exit__(self, *_error):
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def start(self, coroutine):
        """Start a coroutine; returns a `concurrent.futures.Future`, whose `cancel` cancels it. From any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine, timeout=None):
        """Run a coroutine and return its result. From any thread but the loop's own."""
        future = self.start(coroutine)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()  # nobody waits for it any more
            raise


async def square(number):
    await asyncio.sleep(0.1)  # stands for a request to somewhere
    return number * number


def main():
    with BackgroundLoop() as background:
        print("one:", background.run(square(7)))

        futures = [background.start(square(number)) for number in range(5)]  # they run together
        print("several:", *[future.result() for future in futures])

        try:
            background.run(asyncio.sleep(60), timeout=0.1)
        except TimeoutError:
            print("too slow: cancelled")
    print("threads left:", threading.active_count())


if __name__ == "__main__":
    main()
