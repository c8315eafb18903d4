"""Calls every public method of loops, handles, transports and servers with arguments that nobody expects.

    python tests/fuzz/run.py --seed 3 [--runs 20] [--only 17] [--log FILE] [--loop asyncio]

Each run makes a loop and calls it before it runs, while it runs (in callbacks, protocols, finalizers, other threads),
while it is stopped, while it closes, and afterwards. Whatever Python can raise is fine if it is an Exception; a panic,
a SystemError, a crash or a hang is not. All choices follow from the seed, as far as threads and the kernel allow. The
log has the calls, the last one last: for a crash. It talks to nobody but itself, by loopback; run it in a folder of
its own, where it leaves files.
"""

import argparse
import asyncio
import copy
import faulthandler
import functools
import gc
import inspect
import logging
import operator
import os
import pickle
import random
import signal
import socket
import sys
import threading
import warnings
import weakref
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from arguments import SIGNALS, Arguments, methods_of
from odd import BufferedBusy, Busy, Junk, Leaving, OddBaseException, OddExit
from support import loop_factory

# A run may come back into itself so often.
MAX_DEPTH = 3
STEPS_BEFORE, STEPS_RUNNING, STEPS_STOPPED, STEPS_AFTER = 25, 60, 25, 25
# A run of the loop is stopped after so many seconds.
STOP_AFTER = 0.02
HANG_LIMIT_S = 30

# What is slow, or leaves little to do for the rest of a run.
SELDOM = ["subprocess_exec", "subprocess_shell", "close", "shutdown_default_executor"]
SELDOM += ["run_forever", "run_until_complete"]

# Not in finalizers, which may run while this very thread holds a lock of an executor's; nor coroutines, which go on to.
LOCKING = ["run_in_executor", "close", "run_forever", "run_until_complete"]


def is_bug(exc):
    return isinstance(exc, SystemError) or type(exc).__name__ == "PanicException"


class Local(threading.local):
    """Where a thread is: how often it has come back, and whether a finalizer is under way."""

    depth = 0
    in_finalizer = False


class Fuzzer(Arguments):
    """One run."""

    def __init__(self, seed, run, new_loop, log, findings):
        super().__init__(random.Random(f"{seed}/{run}"), new_loop())
        self.name = f"seed {seed}, run {run}"
        self.log = log
        self.findings = findings
        self.local = Local()
        self.is_over = False
        methods_of(type(self.loop))
        self.loop.set_debug(self.random.random() < 0.2)

    # ---- what it does --------------------------------------------------------------------------------

    def note(self, text):
        if self.log is not None:
            os.write(self.log, f"{self.name}: {text}\n".encode(errors="replace"))

    def found(self, where, exc):
        self.findings.append(f"{self.name}: {where}: {type(exc).__name__}: {exc}")

    def check(self, where, exc):
        """Whatever is no Exception is a bug, unless it is one of ours."""
        if is_bug(exc) or not isinstance(exc, (Exception, OddExit, OddBaseException, asyncio.CancelledError)):
            self.found(where, exc)

    def callback_step(self, *_args, **_kwargs):
        """A step, which may end with an exception of its own."""
        self.step()
        if self.random.random() < 0.1:
            raise self.random.choice([Junk(), OddBaseException(), asyncio.CancelledError()])

    def step(self):
        """Call something."""
        if self.local.depth >= MAX_DEPTH or self.is_over:
            return
        self.local.depth += 1
        try:
            self.call_something()
        except (Junk, RecursionError):
            pass  # the fuzzer itself had to do with an odd object
        except Exception as exc:
            self.found("the fuzzer itself", exc)
        finally:
            self.local.depth -= 1

    def target(self):
        # Futures and tasks are CPython's own: they are arguments, but not called.
        kind = self.random.choice([asyncio.BaseTransport, asyncio.AbstractServer, asyncio.Handle, None, None, None])
        others = [thing for thing in self.kept if kind is not None and isinstance(thing, kind)]
        return self.random.choice(others or [self.loop] * 9 + self.loops)

    def call_something(self):
        target = self.target()
        if self.random.random() < 0.15:
            return self.use(target)
        kind = type(target)
        methods = methods_of(kind)
        name = self.random.choice(list(methods))
        runs = name in ("run_forever", "run_until_complete")
        if name in SELDOM and target in self.loops and self.random.random() < 0.8:
            return None
        if runs and threading.current_thread() is not threading.main_thread():
            return None
        if self.local.in_finalizer and (name in LOCKING or inspect.iscoroutinefunction(getattr(kind, name))):
            return None
        args, keywords = self.arguments(methods[name])
        where = f"{kind.__name__}.{name}"
        Leaving(self)
        self.note(f"{where} {[type(arg).__name__ for arg in args]} {[ascii(key) for key in keywords]}")
        try:
            if runs:
                target.call_soon_threadsafe(target.call_later, STOP_AFTER, target.stop)
            result = getattr(target, name)(*args, **keywords)
            if inspect.iscoroutine(result):
                self.take_coroutine(where, result)
            elif isinstance(result, asyncio.Future):
                self.keep(result).add_done_callback(functools.partial(self.look, where))
            elif isinstance(result, (asyncio.Handle, asyncio.BaseTransport, asyncio.AbstractServer)):
                self.keep(result)
        except BaseException as exc:
            self.check(where, exc)
        return None

    def take_coroutine(self, where, coroutine):
        chance = self.random.random()
        if chance < 0.1:
            coroutine.close()
        elif chance < 0.2 or self.loop.is_closed():
            coroutine.send(None)
            if chance < 0.15:
                coroutine.throw(Junk())
            coroutine.close()
        else:
            task = self.keep(asyncio.Task(coroutine, loop=self.loop))
            task.add_done_callback(functools.partial(self.look, where))
            if chance < 0.5:
                self.loop.call_later(self.random.choice([0, 0, 0.001]), task.cancel)

    def look(self, where, future):
        if future.cancelled():
            return
        if (exc := future.exception()) is not None:
            self.check(f"{where} (awaited)", exc)
            return
        result = future.result()
        for thing in result if isinstance(result, tuple) else [result]:
            if isinstance(thing, (asyncio.BaseTransport, asyncio.AbstractServer)):
                self.keep(thing)

    def use(self, target):
        """Something that one can do with any object."""
        other = self.junk()
        operations = [
            lambda: repr(target),
            lambda: str(target),
            lambda: hash(target),
            lambda: target == other,
            lambda: target != self.random.choice(self.kept or [None]),
            lambda: self.random.choice([operator.lt, operator.le, operator.gt, operator.ge])(target, other),
            lambda: self.random.choice([operator.lt, operator.le])(target, self.random.choice(self.kept or [None])),
            lambda: copy.copy(target),
            lambda: pickle.dumps(target),
            lambda: weakref.ref(target),
            lambda: weakref.ref(target, self.callback_step),
            lambda: setattr(target, "junk", other),
            lambda: setattr(target, "__class__", object),
            lambda: delattr(target, "junk"),
            lambda: [getattr(target, name, None) for name in dir(target)],
            lambda: type(target)(other),
            lambda: type(target).__new__(type(target)),
            lambda: object.__new__(type(target)),
            lambda: type("Derived", (type(target),), {})(other),
            lambda: target.__init__(other),
            lambda: isinstance(target, asyncio.Handle),
            gc.collect,
        ]
        number = self.random.randrange(len(operations))
        where = f"operation {number} of {type(target).__name__}"
        self.note(where)
        try:
            made = operations[number]()
        except BaseException as exc:
            self.check(where, exc)
        else:
            if type(made) in map(type, self.loops):
                self.loops.append(made)

    # ---- a run ---------------------------------------------------------------------------------------

    def go(self):
        # The collector runs finalizers: now and then nearly everywhere (up to Python 3.11, in any allocation).
        gc.set_threshold(self.random.choice([700, 700, 100, 10, 3]), 1000, 1000)
        self.several(STEPS_BEFORE)
        self.run_loop(self.set_up())
        self.run_loop(self.busy())
        self.several(STEPS_STOPPED)
        if self.random.random() < 0.5:
            self.run_loop(self.busy())
        if self.random.random() < 0.7:
            self.run_loop(self.tear_down())
        try:
            # Things that come back are in its queues.
            self.quiet()
            self.loop.call_soon(len, Leaving(self))
            self.loop.call_later(100, len, Leaving(self))
        except RuntimeError:
            pass  # closed
        self.note("close")
        self.loop.close()
        self.several(STEPS_AFTER)
        self.end()

    def several(self, count):
        for _ in range(count):
            self.step()

    def quiet(self):
        """Undo what would keep the fuzzer itself from working."""
        self.loop.set_task_factory(None)
        self.loop.set_exception_handler(self.reported)
        self.loop.slow_callback_duration = 1000

    def reported(self, _loop, context):
        self.note(f"reported: {context['message'] if 'message' in context else None!r:.100}")
        if is_bug(context.get("exception")):
            self.found(f"reported, {context.get('message')!r:.100}", context["exception"])

    def run_loop(self, coroutine):
        if self.loop.is_closed():
            coroutine.close()
            return
        self.quiet()
        task = asyncio.Task(coroutine, loop=self.loop)
        task.add_done_callback(lambda _: self.loop.stop())
        for _ in range(50):
            if task.done() or self.loop.is_closed():
                break
            try:
                self.loop.call_later(STOP_AFTER, self.loop.stop)
                self.loop.run_forever()
            except BaseException as exc:
                self.check("run_forever", exc)
                if isinstance(exc, OddBaseException):
                    self.found("run_forever was left", exc)
            self.quiet()
        if task.done() and not task.cancelled() and (exc := task.exception()) is not None:
            self.check("the fuzzer's own task", exc)
            if isinstance(exc, NameError):
                self.found("the fuzzer itself", exc)

    async def set_up(self):
        """Good transports and servers, to begin with."""
        for _ in range(2):
            one, other = socket.socketpair()
            self.sockets += [one, other]
            one.setblocking(False)
            other.setblocking(False)
            await self.loop.create_connection(lambda: Busy(self), sock=one)
            if self.random.random() < 0.5:
                await self.loop.create_connection(lambda: BufferedBusy(self), sock=other)
        server = await self.loop.create_server(lambda: Busy(self), "127.0.0.1", 0)
        self.keep(server)
        address = server.sockets[0].getsockname() if server.sockets else self.addresses[0]
        self.addresses.append(address)
        await self.loop.create_connection(lambda: Busy(self), *address)
        await self.loop.create_datagram_endpoint(lambda: Busy(self), local_addr=("127.0.0.1", 0))
        one, other = socket.socketpair(type=socket.SOCK_DGRAM)
        other.setblocking(False)
        self.sockets += [one, other]
        await self.loop.create_datagram_endpoint(lambda: Busy(self), sock=one)

    async def busy(self):
        """Steps in callbacks of every kind."""
        loop = self.loop
        thread = None
        if self.random.random() < 0.3:
            thread = threading.Thread(target=self.several, args=(10,))
            thread.start()
        for _ in range(STEPS_RUNNING):
            kind = self.random.randrange(7)
            if kind == 0:
                self.step()
            elif kind == 1:
                self.keep(loop.call_soon(self.callback_step, Leaving(self)))
            elif kind == 2:
                self.keep(loop.call_later(self.random.choice([0, 0.0005]), self.callback_step))
            elif kind == 3:
                self.send_something()
            elif kind == 4:
                self.keep(loop.call_soon_threadsafe(self.callback_step))
            elif kind == 5:
                signal.raise_signal(self.random.choice(SIGNALS[:3]))
            else:
                future = loop.create_future()
                future.add_done_callback(self.callback_step)
                future.set_result(None)
            await asyncio.sleep(0)
        while thread is not None and thread.is_alive():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.003)  # for timers, threads and children

    def send_something(self):
        """So that somebody has something to read."""
        sock = self.random.choice(self.sockets)
        try:
            if self.random.random() < 0.1:
                sock.close()
            elif sock.type == socket.SOCK_DGRAM and sock.family == socket.AF_INET:
                sock.sendto(b"datagram", self.random.choice(self.addresses))
            else:
                sock.send(b"sent" * self.random.choice([1, 1, 1000]))
        except OSError:
            pass

    async def tear_down(self):
        others = asyncio.all_tasks(self.loop) - {asyncio.current_task()}
        for task in sorted(others, key=asyncio.Task.get_name):
            task.cancel()
        for thing in self.kept:
            if isinstance(thing, asyncio.BaseTransport):
                self.random.choice([thing.close, thing.close, getattr(thing, "abort", thing.close)])()
        for _ in range(5):
            await asyncio.sleep(0)

    def end(self):
        self.is_over = True
        for loop in self.loops:
            try:
                loop.set_debug(False)
                loop.close()
            except (RuntimeError, AttributeError, Junk):
                pass  # one without __init__
        for thing in (*self.sockets, *self.files):
            thing.close()
        for number in SIGNALS[:3]:
            signal.signal(number, signal.SIG_DFL)
        self.kept.clear()
        gc.collect()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", type=int, help="this run of the seed alone")
    parser.add_argument("--log", type=Path, help="where to note each call")
    parser.add_argument("--loop", default="velodrome")
    options = parser.parse_args()

    faulthandler.enable()
    findings = []
    log = options.log and os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")

    def unraisable(unraisable):
        if is_bug(unraisable.exc_value):
            findings.append(f"unraisable: {unraisable.exc_value!r} in {unraisable.object!r}")

    sys.unraisablehook = unraisable
    threading.excepthook = lambda args: is_bug(args.exc_value) and findings.append(f"in a thread: {args.exc_value!r}")
    # Nobody is asked for the name of a host.
    look_up = socket.getaddrinfo
    socket.getaddrinfo = lambda host, port, family=0, type=0, proto=0, flags=0: look_up(
        host, port, family, type, proto, flags | socket.AI_NUMERICHOST
    )
    new_loop = loop_factory(options.loop)
    for run in range(options.runs) if options.only is None else [options.only]:
        faulthandler.dump_traceback_later(HANG_LIMIT_S, exit=True)
        Fuzzer(options.seed, run, new_loop, log, findings).go()
        faulthandler.cancel_dump_traceback_later()
    for finding in findings:
        print(finding, flush=True)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
