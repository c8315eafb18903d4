"""Workloads that need no peer: each does an exact number of operations and checks that all of them happened.

`python micro.py LOOP WORKLOAD --seconds S` measures one and prints a line of JSON;
`python micro.py LOOP WORKLOAD --operations N` only runs it, for tools that count instructions.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import threading
import time
from dataclasses import dataclass
from typing import Callable

import loops


@dataclass(frozen=True)
class MicroWorkload:
    name: str
    function: Callable
    chunk: int  # operations between two looks at the clock: some 5 to 50 ms
    repeatable: bool  # the same work in each run: no thread or clock decides

    cost = "cpu_us"


WORKLOADS = {}


def workload(*, chunk, repeatable=True):
    def register(function):
        name = function.__name__.replace("_", "-")
        WORKLOADS[name] = MicroWorkload(name, function, chunk, repeatable)
        return function

    return register


class MissingOperations(Exception):
    """The loop did not do what it was asked; its time means nothing."""


def expect(done, operations):
    if done != operations:
        raise MissingOperations(f"{operations} operations were asked for, {done} happened")


# ---- callbacks --------------------------------------------------------------------------------


@workload(chunk=5_000)
def call_soon_chain(loop, operations):
    """Each callback schedules the next: one callback a tick."""
    left = operations

    def step():
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            loop.stop()

    loop.call_soon(step)
    loop.run_forever()
    expect(operations - left, operations)


@workload(chunk=20_000)
def call_soon_batch(loop, operations):
    """10,000 callbacks queued, then run in one tick."""
    done = 0

    def callback():
        nonlocal done
        done += 1

    for size in batches(operations, 10_000):
        for _ in range(size):
            loop.call_soon(callback)
        loop.call_soon(loop.stop)
        loop.run_forever()
    expect(done, operations)


@workload(chunk=20_000)
def call_soon_3_arguments(loop, operations):
    """As call-soon-batch, each callback taking three arguments."""
    done = 0

    def callback(first, second, third):
        nonlocal done
        done += third

    for size in batches(operations, 10_000):
        for _ in range(size):
            loop.call_soon(callback, loop, None, 1)
        loop.call_soon(loop.stop)
        loop.run_forever()
    expect(done, operations)


@workload(chunk=20_000, repeatable=False)
def call_soon_threadsafe_flood(loop, operations):
    """Another thread posts callbacks as fast as it can; both threads' CPU time counts."""
    done = 0

    def callback():
        nonlocal done
        done += 1
        if done == operations:
            loop.stop()

    def post():
        for _ in range(operations):
            loop.call_soon_threadsafe(callback)

    thread = threading.Thread(target=post)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    expect(done, operations)


# ---- tasks and futures ------------------------------------------------------------------------


@workload(chunk=5_000)
def sleep_0_1_task(loop, operations):
    """One task awaiting `sleep(0)`."""
    expect(loop.run_until_complete(yield_often(operations)), operations)


@workload(chunk=20_000)
def sleep_0_100_tasks(loop, operations):
    """A hundred tasks awaiting `sleep(0)` in turn."""

    async def main():
        tasks = [asyncio.create_task(yield_often(operations // 100)) for _ in range(100)]
        expect(sum([await task for task in tasks]), operations)

    loop.run_until_complete(main())


async def yield_often(times):
    done = 0
    for _ in range(times):
        await asyncio.sleep(0)
        done += 1
    return done


@workload(chunk=3_000)
def create_task_and_await(loop, operations):
    """A task that returns at once, awaited; one after the other."""

    async def main():
        done = 0
        for _ in range(operations):
            done += await asyncio.create_task(one())
        expect(done, operations)

    loop.run_until_complete(main())


@workload(chunk=10_000)
def gather_1000(loop, operations):
    """A gather of 1000 coroutines; an operation is one of them."""

    async def main():
        done = 0
        for size in batches(operations, 1000):
            done += sum(await asyncio.gather(*[one() for _ in range(size)]))
        expect(done, operations)

    loop.run_until_complete(main())


@workload(chunk=1_000)
def run_until_complete(loop, operations):
    """`run_until_complete` of a coroutine that returns at once."""
    done = 0
    for _ in range(operations):
        done += loop.run_until_complete(one())
    expect(done, operations)


async def one():
    return 1


@workload(chunk=6_000)
def future_ping_pong(loop, operations):
    """Two tasks wake each other by setting futures; an operation is one wake-up."""
    turns = [loop.create_future(), loop.create_future()]

    async def player(me):
        wake_ups = 0
        for _ in range(operations // 2):
            await turns[me]
            wake_ups += 1
            turns[me] = loop.create_future()
            turns[1 - me].set_result(None)
        return wake_ups

    async def main():
        turns[0].set_result(None)
        expect(sum(await asyncio.gather(player(0), player(1))), operations)

    loop.run_until_complete(main())


@workload(chunk=6_000)
def queue_ping_pong(loop, operations):
    """Two tasks and two queues; an operation is one item handed over."""

    async def pass_on(source, target):
        for _ in range(operations // 2):
            await target.put(await source.get() + 1)

    async def main():
        ping, pong = asyncio.Queue(), asyncio.Queue()
        await ping.put(0)
        await asyncio.gather(pass_on(ping, pong), pass_on(pong, ping))
        expect(await ping.get(), operations)

    loop.run_until_complete(main())


# ---- timers -----------------------------------------------------------------------------------


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


# ---- measuring --------------------------------------------------------------------------------


def batches(total, size):
    """Split `total` into parts of `size` and, where it does not divide, a smaller last one."""
    while total > 0:
        yield min(size, total)
        total -= size


def measure(loop, workload, seconds):
    """Run chunks for some `seconds`; return the median chunk's CPU and wall time per operation.

    CPU time of the whole process, since being preempted or waiting is not the loop's cost.
    """
    workload.function(loop, workload.chunk)  # warms caches and the specialising interpreter; not counted
    cpu, wall = [], []
    end = time.perf_counter() + seconds
    while not cpu or time.perf_counter() < end:
        wall_before, cpu_before = time.perf_counter(), time.process_time()
        workload.function(loop, workload.chunk)
        cpu.append(time.process_time() - cpu_before)
        wall.append(time.perf_counter() - wall_before)
    return {
        "operations": workload.chunk * len(cpu),
        "cpu_us": statistics.median(cpu) / workload.chunk * 1e6,
        "operations_per_second": workload.chunk / statistics.median(wall),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("loop", choices=loops.NAMES)
    parser.add_argument("workload", choices=WORKLOADS)
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--seconds", type=float)
    amount.add_argument("--operations", type=int)
    options = parser.parse_args()

    workload = WORKLOADS[options.workload]
    with contextlib.closing(loops.new_event_loop(options.loop)) as loop:
        asyncio.set_event_loop(loop)
        if options.operations is not None:
            workload.function(loop, options.operations)
        else:
            print(json.dumps(measure(loop, workload, options.seconds)))


if __name__ == "__main__":
    main()
