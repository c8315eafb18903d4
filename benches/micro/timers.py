"""Timers, and what waits for them."""

import asyncio
import collections
import random
import time

from .workload import MissingOperations, batches, expect, workload


@workload(chunk=10_000)
def call_later_cancel(loop, operations):
    """Timeouts set and cancelled at once, a hundred a tick: what a server does around each request."""
    done = 0

    def never():
        raise MissingOperations("a cancelled timer ran")

    def tick():
        nonlocal done
        for _ in range(min(100, operations - done)):
            loop.call_later(60, never).cancel()
            done += 1
        loop.call_soon(tick if done < operations else loop.stop)

    loop.call_soon(tick)
    loop.run_forever()
    expect(done, operations)


@workload(chunk=30_000)
def timers_churn(loop, operations):
    """As call-later-cancel, but each timer is cancelled when 10,000 more have been set."""
    delays = [60 + index / 1000 for index in range(1000)]
    random.Random(1).shuffle(delays)
    pending = collections.deque()
    done = 0

    def never():
        raise MissingOperations("a cancelled timer ran")

    def tick():
        nonlocal done
        for _ in range(min(100, operations - done)):
            pending.append(loop.call_later(delays[done % 1000], never))
            done += 1
            if len(pending) > 10_000:
                pending.popleft().cancel()
        loop.call_soon(tick if done < operations else loop.stop)

    loop.call_soon(tick)
    loop.run_forever()
    for timer in pending:
        timer.cancel()
    expect(done, operations)


@workload(chunk=20_000)
def call_later_0(loop, operations):
    """`call_later(0, ...)`, a hundred a tick."""
    done = 0

    def callback():
        nonlocal done
        done += 1
        if done == operations:
            loop.stop()
        elif done % 100 == 0:
            arm()

    def arm():
        for _ in range(min(100, operations - done)):
            loop.call_later(0, callback)

    loop.call_soon(arm)
    loop.run_forever()
    expect(done, operations)


@workload(chunk=5_000)
def timers_fire(loop, operations):
    """1000 timers set in shuffled order, all of them due when the loop next looks."""
    done = 0
    # Spread over 1 ms, but due before the loop looks: a loop with finer timers must not be charged for more wake-ups.
    delays = [0.001 + index * 1e-6 for index in range(1000)]
    random.Random(1).shuffle(delays)

    def fire():
        nonlocal done
        done += 1
        if done % 1000 == 0 or done == operations:
            loop.stop()

    def arm(size):
        for delay in delays[:size]:
            loop.call_later(delay, fire)
        time.sleep(0.004)  # uses no CPU; a loop with 1 ms ticks has passed the last deadline too

    for size in batches(operations, 1000):
        loop.call_soon(arm, size)
        loop.run_forever()
    expect(done, operations)


@workload(chunk=50, repeatable=False)
def timer_wake_up(loop, operations):
    """`await sleep(0.001)`, one after the other: the idle loop's whole way from the timer to the task."""

    async def main():
        earliest = loop.time() + operations * 0.001
        for _ in range(operations):
            await asyncio.sleep(0.001)
        if loop.time() < earliest:
            raise MissingOperations("a timer fired early")

    loop.run_until_complete(main())
