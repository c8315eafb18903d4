"""A soak run: everything that a loop does, at once and at random, and then: is it all gone?

    python tests/soak/run.py [--seconds 60] [--seed N] [--activity NAME] ...

One loop runs rounds of activities (activity.py says what these are) side by side, and cancels some of them at random
moments. After each round it comes to rest: no task is left, and descriptors, threads, children, objects and memory must
be back at where they were after the first rounds. Nothing may have been reported that was not raised on purpose. Exit
status 1 if anything was found, or if nothing moved for too long.

The seed decides what is done, with what payloads, and when it is cancelled. What runs beside what depends on the
machine, too. It uses loopback and a temporary folder, and ends no process but its own children.
"""

import argparse
import asyncio
import collections
import contextlib
import ctypes
import faulthandler
import gc
import io
import logging
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import callbacks
import children  # noqa: F401 - registers its activities
import sockets  # noqa: F401
import streams
from activity import ACTIVITIES, Expected
from support import COUNTS_NATIVE_BYTES, loop_factory, native_bytes, open_fds, resident_bytes, thread_count

# Rounds that fill pools and caches: what there is afterwards is where later rounds must come back to.
WARM_UP = 4
EXECUTOR_THREADS = 4
MOST_LOOK_UPS = 32
# The run ends with so many findings.
ENOUGH = 20
CANCELLED = 0.35
IN_DEBUG_MODE = 0.2
# So much more memory than after the warm-up is a leak.
MEMORY_FACTOR, MEMORY_SLACK = 1.3, 48 * 1024 * 1024
# What grows in rest after rest, by so much a round, is a leak, too. (CPython's own caches grow a little.)
STEADY_RESTS = 6
STEADY_GROWTH = {"objects": 30, "memory blocks": 100, "native bytes": 30_000, "references": 200}
# A leak of one of these is a leak; of anything else, if it goes on.
WATCHED = re.compile(r"^(velodrome|_?asyncio|_?socket|subprocess|_?ssl|concurrent)\b|coroutine")
NOT_WATCHED = re.compile(r"\.(SSLContext|ThreadPoolExecutor|_WorkItem)$")
# Cancelled timers leave the heap when their time comes, or when there are many. A descriptor that `sock_recv` and its
# kin waited for stays registered until the number is used again.
BOUNDED = {"TimerHandle": 120, "SockWaiters": 200}

LIBC = ctypes.CDLL(None)
LEAKS = ("fd", "thread", "child", "task", "handle", "object", "memory", "report", "warning", "stuck", "hang")
# Seen on a debug build only, and with glibc only.
LEAKS += ("reference",) * hasattr(sys, "gettotalrefcount") + ("native",) * COUNTS_NATIVE_BYTES


def kinds_of_descriptors():
    """How many descriptors there are of each kind."""
    names = (re.sub(r"\d+", "", name) if name[:1] != "/" else name for name in open_fds().values())
    return collections.Counter(names)


def idle_look_ups():
    """Threads that look names up come and go with the work, up to a number."""
    count = sum(thread.name.startswith("velodrome-resolver_") for thread in threading.enumerate())
    return min(count, MOST_LOOK_UPS)


def has_children():
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    return False


def kinds_of_objects():
    kinds = collections.Counter(map(type, gc.get_objects()))
    counts = collections.Counter()
    for kind, count in kinds.items():
        counts[f"{kind.__module__}.{kind.__qualname__}"] += count
    return counts


class Soak:
    def __init__(self, options):
        self.options = options
        self.seed = options.seed
        self.findings = []
        self.started = self.cancelled = 0
        self.counts = collections.Counter()
        self.rests = []
        self.first = None  # the rest after the warm-up
        self.leaked = []
        self.folder = options.folder
        self.content = random.Random(0).randbytes(200_000)
        self.file = os.path.join(self.folder, "file")
        Path(self.file).write_bytes(self.content)
        self.server_tls, self.client_tls = streams.tls_contexts()
        self.free_signals = list(callbacks.SIGNALS)
        for number in self.free_signals:
            signal.signal(number, signal.SIG_IGN)
        self.loop = loop_factory(options.loop)()
        self.loop.set_exception_handler(self.reported)

    def found(self, text):
        self.findings.append(text)
        print(f"FOUND: {text}", flush=True)

    def reported(self, loop, context):
        exception = context.get("exception")
        if isinstance(exception, Expected):
            return
        if loop.get_debug() and isinstance(exception, ConnectionError) and "transport creation" in context["message"]:
            return  # a client that left in the middle of its TLS handshake: told in debug mode, as by asyncio
        lines = traceback.format_exception(exception) if exception else []
        self.found(f"reported to the exception handler: {context}\n{''.join(lines)}")

    # ---- activities --------------------------------------------------------------------------------------------

    async def run_one(self, number):
        """Run the activity of this number, and cancel it at the moment that its number says."""
        rng = random.Random(f"{self.seed}/{number}")
        function = ACTIVITIES[rng.choice(self.options.activities)]
        task = self.loop.create_task(function(self, rng), name=f"{function.__name__} {number}")
        self.counts[function.__name__] += 1
        cancelling = None
        if rng.random() < CANCELLED:
            cancelling = self.loop.call_later(rng.choice([0, 0.0002, rng.uniform(0, 0.02)]), task.cancel)
        await self.see_through(task, cancelling)

    async def see_through(self, task, cancelling=None):
        """Wait for the end of a task, which is due to be cancelled by the handle, and judge it."""
        await asyncio.wait([task], timeout=self.options.activity_limit)
        if cancelling is not None:
            cancelling.cancel()
        if not task.done():
            where = io.StringIO()
            task.print_stack(file=where)
            self.found(f"{task.get_name()} is stuck\n{where.getvalue()}")
            task.cancel()
        elif task.cancelled():
            self.cancelled += 1
            if cancelling is None:
                self.found(f"{task.get_name()} was cancelled by somebody else")
        elif task.exception() is not None:
            self.found(f"{task.get_name()}:\n{''.join(traceback.format_exception(task.exception()))}")

    async def run_round(self, number):
        self.loop.set_debug(random.Random(f"{self.seed}/round {number}").random() < IN_DEBUG_MODE or number == 1)
        self.loop.slow_callback_duration = 1000
        last = self.started + self.options.round

        async def work():
            while self.started < last and len(self.findings) < ENOUGH:
                self.started += 1
                await self.run_one(self.started)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.options.at_once):
                group.create_task(work())
        self.loop.set_debug(False)

    # ---- rest --------------------------------------------------------------------------------------------------

    async def tasks_ended(self):
        deadline = self.loop.time() + self.options.rest_limit
        while others := asyncio.all_tasks(self.loop) - {asyncio.current_task()}:
            if self.loop.time() > deadline:
                for task in others:
                    self.found(f"a task is left: {task!r}")
                    task.cancel()
                return
            await asyncio.sleep(0.01)

    async def come_to_rest(self):
        """Wait until everything that ends by itself has ended, and measure what is left."""
        await self.tasks_ended()
        deadline = self.loop.time() + self.options.rest_limit
        while True:
            # What is closed now is freed in the next iterations, and may then close more.
            for _ in range(3):
                await asyncio.sleep(0.005)
                gc.collect()
            rest = {
                "fds": kinds_of_descriptors(),
                "threads": thread_count() - idle_look_ups(),
                "children": has_children(),
                "kinds": kinds_of_objects(),
                "memory blocks": sys.getallocatedblocks(),
                "memory": resident_bytes("self"),
            }
            rest["objects"] = rest["kinds"].total()
            if "native" in LEAKS:
                rest["native bytes"] = native_bytes()
            if hasattr(sys, "gettotalrefcount"):
                rest["references"] = sys.gettotalrefcount()
            if not rest["children"] and not self.left_over(rest) or self.loop.time() > deadline:
                return rest

    def left_over(self, rest):
        """What there is more of than after the warm-up."""
        found, first = [], self.first
        if first is None:
            return found
        if fds := rest["fds"] - first["fds"]:
            found.append(f"descriptors are left open: {dict(fds)}")
        if fds := first["fds"] - rest["fds"]:
            found.append(f"descriptors are closed that nobody closed: {dict(fds)}")
        if rest["threads"] > first["threads"]:
            names = [thread.name for thread in threading.enumerate()]
            found.append(f"{rest['threads']} threads, {first['threads']} after the warm-up: {names}")
        more = rest["kinds"] - first["kinds"]
        watched = {kind: n for kind, n in more.items() if WATCHED.search(kind) and not NOT_WATCHED.search(kind)}
        watched = {kind: n for kind, n in watched.items() if n > BOUNDED.get(kind.rpartition(".")[2], 0)}
        if watched:
            found.append(f"objects are left: {watched}")
        return found

    def check_rest(self, rest):
        if rest["children"]:
            self.found("a child process is left")
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        # The numbers alone: to remember the kinds of all objects takes many objects itself.
        self.rests.append({name: rest[name] for name in STEADY_GROWTH if name in rest})
        if len(self.rests) < WARM_UP:
            return
        self.last_kinds = rest["kinds"]
        if self.first is None:
            self.first, self.first_kinds = rest, rest["kinds"].copy()
            return
        first = self.first
        for text in self.left_over(rest):
            self.found(text)
        if rest["memory"] > first["memory"] * MEMORY_FACTOR + MEMORY_SLACK:
            self.found(f"memory grew from {first['memory'] >> 20} to {rest['memory'] >> 20} MiB")
            first["memory"] = rest["memory"]
        # So that each finding is told once.
        first["fds"], first["threads"] = rest["fds"], rest["threads"]
        first["kinds"] |= rest["kinds"]

    def check_growth(self):
        """After the last round: did anything grow steadily?"""
        rests = self.rests[WARM_UP - 1 :]
        if len(rests) < STEADY_RESTS:
            return
        half = len(rests) // 2
        for name, allowed in STEADY_GROWTH.items():
            values = [rest[name] for rest in rests if name in rest]
            if not values:
                continue
            # Peaks come and go; what the lowest points do is what is kept.
            growth = (min(values[half:]) - min(values[:half])) / half
            rising = sum(b > a for a, b in zip(values, values[1:], strict=False)) / (len(values) - 1)
            if growth > allowed and rising > 0.6:
                more = (self.last_kinds - self.first_kinds).most_common(8)
                self.found(f"{name} grow steadily, by {growth:.0f} a round: {values}; more objects: {more}")

    # ---- leaks on purpose --------------------------------------------------------------------------------------

    async def leak(self, kind):
        """What must be noticed."""
        keep = self.leaked.append
        if kind == "fd":
            keep(os.open("/dev/null", os.O_RDONLY))
        elif kind == "thread":
            thread = threading.Thread(target=threading.Event().wait, daemon=True)
            thread.start()
        elif kind == "child":
            keep(os.posix_spawn(shutil.which("true"), ["true"], {}))
        elif kind == "task":
            keep(self.loop.create_task(asyncio.sleep(3600)))
        elif kind == "handle":
            keep(self.loop.call_soon(int))
        elif kind == "object":
            keep([[] for _ in range(500)])
        elif kind == "reference":
            for _ in range(500):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
        elif kind == "native":
            LIBC.malloc(ctypes.c_size_t(100_000))
        elif kind == "memory":
            keep(b"x" * 100_000_000)
        elif kind == "report":
            self.loop.call_soon(int, "no number")
        elif kind == "warning":
            socket.socket()
        elif kind == "stuck":
            await self.see_through(self.loop.create_task(asyncio.sleep(3600)))
        elif kind == "hang":
            time.sleep(3600)

    # ---- a run -------------------------------------------------------------------------------------------------

    async def start_threads(self):
        """All of the default executor's, so that their number is known."""
        self.loop.set_default_executor(ThreadPoolExecutor(EXECUTOR_THREADS))
        barrier = threading.Barrier(EXECUTOR_THREADS)
        await asyncio.gather(*(asyncio.to_thread(barrier.wait) for _ in range(EXECUTOR_THREADS)))

    async def main(self):
        begin = time.monotonic()
        await self.start_threads()
        rounds = 0
        while rounds < self.options.rounds or time.monotonic() - begin < self.options.seconds:
            faulthandler.dump_traceback_later(self.options.hang_limit, exit=True)
            started = time.monotonic()
            before = self.cancelled
            await self.run_round(rounds)
            if rounds >= WARM_UP:
                for kind in self.options.leaks:
                    await self.leak(kind)
            rest = await self.come_to_rest()
            self.check_rest(rest)
            rounds += 1
            self.show(rounds, time.monotonic() - started, self.cancelled - before, rest)
            if len(self.findings) >= ENOUGH:
                print("that is enough")
                break
        self.check_growth()
        return rounds

    def show(self, rounds, seconds, cancelled, rest):
        numbers = f"{rest['fds'].total()} fds, {rest['threads']} threads, {rest['objects']} objects"
        numbers += f", {rest['memory blocks']} blocks, {rest['memory'] / 2**20:.1f} MiB"
        if "references" in rest:
            numbers += f", {rest['references']} references"
        if "native bytes" in rest:
            numbers += f", {rest['native bytes'] / 2**20:.2f} MiB native"
        kind = "warm-up" if rounds <= WARM_UP else "round"
        done = f"{self.options.round} activities, {cancelled} cancelled, {seconds:.1f} s"
        print(f"{kind} {rounds}: {done}; at rest {numbers}", flush=True)

    def go(self):
        """The whole run, on a loop that is gone afterwards."""
        begin = time.monotonic()
        try:
            rounds = self.loop.run_until_complete(self.main())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.loop.close()
        watched = weakref.ref(self.loop)
        del self.loop
        gc.collect()
        if watched() is not None and not self.findings:
            self.found("the closed loop is not freed")
        for name in sorted(self.counts):
            print(f"    {self.counts[name]:6} {name}")
        print(
            f"soak: {rounds} rounds, {self.started} activities, {self.cancelled} cancelled, "
            f"{time.monotonic() - begin:.0f} s, seed {self.seed}: {len(self.findings)} findings",
            flush=True,
        )
        return 1 if self.findings else 0


class Watcher(logging.Handler):
    """Whatever is logged, warned of or raised where nobody sees it is a finding."""

    def __init__(self, soak):
        super().__init__(logging.WARNING)
        self.soak = soak
        logging.getLogger("asyncio").addHandler(self)
        logging.getLogger("asyncio").propagate = False
        warnings.simplefilter("always", ResourceWarning)
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = self.warned
        sys.unraisablehook = self.unraisable
        threading.excepthook = self.raised_in_thread

    def emit(self, record):
        message = record.getMessage()
        if message != "socket.send() raised exception." and not message.startswith("Close running child process"):
            self.soak.found(f"logged: {message}")

    def warned(self, message, category, filename, lineno, file=None, line=None):
        self.soak.found(f"warning: {category.__name__}: {message} ({filename}:{lineno})")

    def unraisable(self, unraisable):
        lines = traceback.format_exception(unraisable.exc_value)
        self.soak.found(f"unraisable, in {unraisable.object!r}: {''.join(lines)}")

    def raised_in_thread(self, args):
        self.soak.found(f"in a thread: {''.join(traceback.format_exception(args.exc_value))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="begin no round after so long")
    parser.add_argument("--rounds", type=int, default=WARM_UP + 2, help="but run so many, whatever their time")
    parser.add_argument("--seed", type=int, help="without it, a new one")
    parser.add_argument("--round", type=int, default=1000, help="activities of a round", metavar="N")
    parser.add_argument("--at-once", type=int, default=30, help="activities that run side by side", metavar="N")
    parser.add_argument("--activity", action="append", dest="activities", choices=sorted(ACTIVITIES))
    parser.add_argument("--loop", default="velodrome")
    parser.add_argument("--activity-limit", type=float, default=60, help="one that takes longer is stuck", metavar="S")
    parser.add_argument("--rest-limit", type=float, default=10, help="what is left then is a leak", metavar="S")
    parser.add_argument("--hang-limit", type=float, default=180, help="a longer round ends everything", metavar="S")
    parser.add_argument("--leak", action="append", dest="leaks", default=[], choices=LEAKS, help="leak it on purpose")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.randrange(1_000_000)
    options.activities = options.activities or sorted(ACTIVITIES)

    faulthandler.enable()
    version = sys.version.split()[0] + (" with reference counts" if hasattr(sys, "gettotalrefcount") else "")
    print(f"soak: seed {options.seed}, {options.loop} on Python {version}", flush=True)
    with tempfile.TemporaryDirectory(prefix="velodrome-soak-") as options.folder:
        soak = Soak(options)
        Watcher(soak)
        sys.exit(soak.go())


if __name__ == "__main__":
    main()
