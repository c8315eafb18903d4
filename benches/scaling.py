"""What an operation costs while many timers or tasks are there: the same operation at sizes from 1 to a million.

`python scaling.py LOOP WORKLOAD --seconds S` measures one size and prints a line of JSON. A workload is a generator:
what it yields is timed and says how many operations it did; what it does itself is preparation.
"""

import argparse
import asyncio
import contextlib
import json
import random
import time
from dataclasses import dataclass
from typing import Callable

import loops
from micro import MissingOperations

# What waits in the loop meanwhile is not due while anybody measures.
FAR = 3600

CHUNK = 1000  # timers between two looks at the clock


@dataclass(frozen=True)
class SizedWorkload:
    name: str
    function: Callable  # of a loop and the size
    size: int
    least: int  # operations, so that what a loop puts off until it is worth it is paid for, too

    cost = "cpu_us"


WORKLOADS = {}


def workload(*, sizes, least):
    """Register a generator once for each of `sizes`; `least(size)` operations are measured at least."""

    def register(function):
        for size in sizes:
            name = f"scaling-{function.__name__.replace('_', '-')}-{size}"
            WORKLOADS[name] = SizedWorkload(name, function, size, least(size))
        return function

    return register


def powers_of_ten(first, last):
    return [10**exponent for exponent in range(first, last + 1)]


# asyncio takes cancelled timers out of its heap when they are more than half of it.
@workload(sizes=powers_of_ten(0, 6), least=lambda size: size + size // 10)
def timers_cancel(loop, size):
    """`size` timers wait; an operation sets another one, somewhere between them, and cancels it."""
    order = random.Random(1)
    wait(loop, size, order)
    delays = [FAR * (1 + order.random()) for _ in range(CHUNK)]
    done = 0

    def tick(at):
        nonlocal done
        for delay in delays[at : at + 100]:
            loop.call_later(delay, never).cancel()
            done += 1
        if at + 100 < CHUNK:
            loop.call_soon(tick, at + 100)
        else:
            loop.stop()

    def operate():
        nonlocal done
        done = 0
        loop.call_soon(tick, 0)
        loop.run_forever()
        return done

    while True:
        yield operate


@workload(sizes=powers_of_ten(0, 6), least=lambda size: CHUNK)
def timers_fire(loop, size):
    """`size` timers wait while a thousand others, which are due, fire; an operation is one of those."""
    order = random.Random(1)
    wait(loop, size, order)
    delays = [0.001 + index * 1e-6 for index in range(CHUNK)]
    order.shuffle(delays)
    done = 0

    def fire():
        nonlocal done
        done += 1
        if done == CHUNK:
            loop.stop()

    def operate():
        loop.run_forever()
        return done

    while True:
        done = 0
        for delay in delays:
            loop.call_later(delay, fire)
        time.sleep(0.004)  # a loop with 1 ms ticks has passed the last deadline, too
        yield operate


def wait(loop, size, order):
    """Set timers that outlast the measurement, in no order."""
    for _ in range(size):
        loop.call_later(FAR * (1 + order.random()), never)


def never():
    raise MissingOperations("a timer ran that was cancelled or not yet due")


@workload(sizes=powers_of_ten(2, 5), least=lambda size: 2 * size)
def tasks(loop, size):
    """`size` tasks await `sleep(0)` in turn; an operation is one step of one task."""
    turns = [0] * size
    ending = False

    async def take_turns(index):
        while not ending:
            turns[index] += 1
            await asyncio.sleep(0)

    running = [loop.create_task(take_turns(index)) for index in range(size)]

    def tick(rounds):
        if rounds > 1:
            loop.call_soon(tick, rounds - 1)
        else:
            loop.stop()

    def operate():
        before = sum(turns)
        loop.call_soon(tick, max(1, 20_000 // size))
        loop.run_forever()
        return sum(turns) - before

    try:
        while True:
            yield operate
            if max(turns) - min(turns) > 1:
                raise MissingOperations(f"tasks took {min(turns)} to {max(turns)} turns")
    finally:
        ending = True
        loop.run_until_complete(asyncio.wait(running))


def measure(loop, workload, seconds):
    """CPU and wall time per operation over some `seconds`, and no fewer than `least` operations.

    Means, unlike those of micro workloads: what a loop does once in a million operations is part of their price.
    """
    done, cpu, wall = 0, 0.0, 0.0
    with contextlib.closing(workload.function(loop, workload.size)) as prepared:
        next(prepared)()  # warms caches and the specialising interpreter; not counted
        end = time.perf_counter() + seconds
        for operate in prepared:
            wall_before, cpu_before = time.perf_counter(), time.process_time()
            operations = operate()
            cpu += time.process_time() - cpu_before
            wall += time.perf_counter() - wall_before
            if not operations:
                raise MissingOperations("nothing happened")
            done += operations
            if done >= workload.least and time.perf_counter() >= end:
                return {"operations": done, "cpu_us": cpu / done * 1e6, "operations_per_second": done / wall}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("loop", choices=loops.NAMES + loops.PEERS)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()

    with contextlib.closing(loops.new_event_loop(options.loop)) as loop:
        asyncio.set_event_loop(loop)
        print(json.dumps(measure(loop, WORKLOADS[options.workload], options.seconds)))


if __name__ == "__main__":
    main()
