"""What is left for an echo connection and a timer when the loop has plenty of other things to do.

`python fairness.py LOOP SITUATION WARM_UP` prints its address and serves echoes. When a connection ends it prints what
the timers saw, from WARM_UP seconds after the last connection was made, and goes on until ended.
"""

import asyncio
import json
import math
import random
import sys
import threading
import time
from dataclasses import dataclass
from typing import Callable

import loops
import servers
from micro import MissingOperations

PERIOD_NS = 1_000_000

# How far a flood may be ahead of the loop: enough to give it no rest, and not enough to fill the memory.
LEAD = 10_000


@dataclass(frozen=True)
class Situation:
    name: str
    begin: Callable  # of a loop and what is seen of it; begins what then never ends
    counts_others: bool = False  # in `seen.others`
    connections: int = 1
    watches_turns: bool = False  # they are so long that a timer must be measured by them

    server = "watched-echo"  # which no floor has
    exchange = ("--echo", "1024")
    packages = ()
    cost = "timer_late_p99_us"


SITUATIONS = {}


def situation(**options):
    def register(function):
        name = f"fairness-{function.__name__.replace('_', '-')}"
        SITUATIONS[name] = Situation(name, function, **options)
        return function

    return register


@situation()
def nothing_else(loop, seen):
    """The connection and the timer alone."""


@situation(counts_others=True)
def call_soon_chain(loop, seen):
    """A callback that schedules itself."""

    def step():
        seen.others += 1
        loop.call_soon(step)

    loop.call_soon(step)


@situation(counts_others=True)
def sleep_0_10_tasks(loop, seen):
    """Ten tasks that await `sleep(0)`."""

    async def spin():
        while True:
            seen.others += 1
            await asyncio.sleep(0)

    return [loop.create_task(spin()) for _ in range(10)]


@situation(counts_others=True)
def call_soon_threadsafe_flood(loop, seen):
    """A thread that posts callbacks as fast as it can."""

    def callback():
        seen.others += 1

    def post():
        posted = 0
        while True:
            if posted - seen.others < LEAD:
                posted += 1
                loop.call_soon_threadsafe(callback)
            else:
                time.sleep(0.0001)

    threading.Thread(target=post, daemon=True).start()


@situation()
def timers_100(loop, seen):
    """A hundred more timers, of anything up to 20 ms."""
    order = random.Random(1)
    for _ in range(100):
        Timer(loop, seen, lambda: order.randrange(20 * PERIOD_NS)).set()


@situation(connections=1000, watches_turns=True)
def connections_1000(loop, seen):
    """A thousand connections, each of which sends as soon as it is answered."""


class Seen:
    """What happened after the warm-up."""

    def __init__(self):
        self.started_ns = self.begins_ns = math.inf
        self.late_ns = []  # of each timer that fired; one that was early was late by less than nothing
        self.turns_ns = []
        self.others = 0  # callbacks or steps of what there is beside the timers, from the start

    def start(self, warm_up):
        self.started_ns = time.monotonic_ns()
        self.begins_ns = self.started_ns + round(warm_up * 1e9)

    def note(self, found, duration_ns):
        if time.monotonic_ns() >= self.begins_ns:
            found.append(duration_ns)

    def summary(self):
        now = time.monotonic_ns()
        quantiles = [
            (f"{name}_{percent}_us", quantile(found, fraction) / 1e3)
            for name, found in (("timer_late", self.late_ns), ("turn", self.turns_ns))
            for percent, fraction in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
            if found
        ]
        return {
            "timers_per_second": len(self.late_ns) / (now - self.begins_ns) * 1e9,
            "timers_early": sum(late < 0 for late in self.late_ns),
            "others_per_second": self.others / (now - self.started_ns) * 1e9 if self.others else None,
            **dict(quantiles),
        }


class Timer:
    """Sets itself again whenever it fires."""

    def __init__(self, loop, seen, delay_ns):
        self.loop = loop
        self.seen = seen
        self.delay_ns = delay_ns  # a function
        self.deadline_ns = math.inf

    def set(self):
        delay_ns = self.delay_ns()
        # On the clock itself, as the user sees it: a loop's own idea of the time may be an old one.
        self.deadline_ns = time.monotonic_ns() + delay_ns
        self.loop.call_later(delay_ns / 1e9, self.fire)

    def fire(self):
        self.seen.note(self.seen.late_ns, self.lateness_ns())
        self.set()

    def lateness_ns(self):
        return time.monotonic_ns() - self.deadline_ns


def watch_turns(loop, seen):
    """Every now and then, measure from the first callback of one turn to the first of the next."""

    def begin():
        loop.call_soon(end, time.monotonic_ns())

    def end(began_ns):
        seen.note(seen.turns_ns, time.monotonic_ns() - began_ns)
        loop.call_later(PERIOD_NS / 1e9, loop.call_soon, begin)

    loop.call_soon(begin)


class Watch:
    """Begins the situation when all connections are there, and tells what was seen when the first one is gone."""

    def __init__(self, loop, situation, warm_up):
        self.loop = loop
        self.situation = situation
        self.warm_up = warm_up
        self.seen = Seen()
        self.timer = Timer(loop, self.seen, lambda: PERIOD_NS)
        self.missing = situation.connections
        self.has_told = False
        self.kept = None  # what the situation needs kept alive

    def connected(self):
        self.missing -= 1
        if self.missing == 0:
            self.seen.start(self.warm_up)
            self.timer.set()
            if self.situation.watches_turns:
                watch_turns(self.loop, self.seen)
            self.kept = self.situation.begin(self.loop, self.seen)

    def disconnected(self):
        if self.has_told:
            return
        self.has_told = True
        if (overdue_ns := self.timer.lateness_ns()) > 0:
            # One that is never served must not pass for one that was never due.
            self.seen.note(self.seen.late_ns, overdue_ns)
        if self.situation.counts_others and not self.seen.others:
            raise MissingOperations("the connection had the loop to itself")
        print(json.dumps(self.seen.summary()), flush=True)


class WatchedEcho(servers.EchoProtocol):
    def __init__(self, watch):
        self.watch = watch

    def connection_made(self, transport):
        super().connection_made(transport)
        self.watch.connected()

    def connection_lost(self, exc):
        self.watch.disconnected()


def quantile(values, fraction):
    """The smallest value that at least `fraction` of the values do not exceed."""
    return sorted(values)[max(math.ceil(fraction * len(values)) - 1, 0)]


def main():
    loop_name, situation_name, warm_up = sys.argv[1:]
    kept = []

    async def start(loop):
        watch = Watch(loop, SITUATIONS[situation_name], float(warm_up))
        server, address = await servers.serve_tcp(loop, lambda: WatchedEcho(watch))
        kept.append(server)
        print(json.dumps(address), flush=True)

    loops.run_forever(loop_name, start)


if __name__ == "__main__":
    main()
