"""Runs one module of CPython's `test.test_asyncio`, with asyncio's loop replaced: the process that `run.py` starts.

The only argument is a JSON object with the fields of `Order`. Every event goes to the descriptor `report_fd` as a line
of JSON, at once, so that whoever reads it knows which test was running if this process dies or hangs.
"""

import asyncio
import faulthandler
import fnmatch
import importlib
import json
import os
import signal
import sys
import time
import traceback
import unittest
from dataclasses import dataclass

PACKAGE = "test.test_asyncio"


@dataclass
class Order:
    module: str  # "test_events"
    loop: str  # "velodrome", "uvloop" or "asyncio" (then nothing is replaced)
    only: list[str]  # patterns of test names; empty means all
    leave_out: list[str]  # patterns of test names
    already_run: list[str]  # test names: a process before this one ran them and died
    report_fd: int


class LoopCount:
    """How many loops the replacement has made in this process."""

    made = 0


def matches(name, patterns):
    """Whether a pattern names the test, or the class or module that holds it."""
    return any(fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, pattern + ".*") for pattern in patterns)


# ---- replacing the loop -----------------------------------------------------------------------------------------


def loop_class(name):
    return importlib.import_module(name).Loop


def replacement_for(target):
    """A class to stand where asyncio has `SelectorEventLoop`, whose instances are `target`'s own.

    Not a real subclass, because a loop may do less work when its type is exactly `target`, and that is what has to be
    tested. The suite passes a selector to some loops: `target` polls for itself, so it is closed.
    """

    class Replacing(type(target)):
        def __instancecheck__(cls, instance):
            return isinstance(instance, target)

    class SelectorEventLoop(target, metaclass=Replacing):
        def __new__(cls, selector=None):
            if selector is not None:
                selector.close()
            LoopCount.made += 1
            return target()  # not an instance of `cls`, so Python calls no __init__ after this

    return SelectorEventLoop


def replace_loop(target):
    """Makes `target` the loop of every public way to get one; the private base classes stay CPython's.

    `target` may derive from asyncio.SelectorEventLoop, so it has to be imported before this.
    """
    unix_events = asyncio.unix_events
    replacement = replacement_for(target)
    for module in (asyncio, unix_events):
        for name in ("SelectorEventLoop", "EventLoop"):  # EventLoop since 3.13
            if hasattr(module, name):
                setattr(module, name, replacement)
    # new_event_loop(), Runner, run() and IsolatedAsyncioTestCase all end here, whatever policy a test sets.
    unix_events._UnixDefaultEventLoopPolicy._loop_factory = replacement


# ---- running ----------------------------------------------------------------------------------------------------


class Reporter(unittest.TestResult):
    """Sends what happens to each test, and how many loops it made."""

    def __init__(self, report_fd):
        super().__init__()
        self.report_fd = report_fd
        self.current = None
        self.loops_before = 0

    def send(self, **event):
        os.write(self.report_fd, json.dumps(event).encode() + b"\n")

    def startTest(self, test):
        super().startTest(test)
        self.current, self.outcome, self.details = test, "passed", []
        self.started = time.monotonic()
        self.send(event="start", test=test_name(test))

    def stopTest(self, test):
        super().stopTest(test)
        if self.current is None:  # Python 3.12.1 stops a skipped test that it never started
            return
        self.send(
            event="end",
            test=test_name(test),
            outcome=self.outcome,
            details="\n".join(self.details),
            seconds=time.monotonic() - self.started,
            # Since the last test ended: IsolatedAsyncioTestCase prepares its loop before startTest.
            loops=LoopCount.made - self.loops_before,
        )
        self.current, self.loops_before = None, LoopCount.made

    def note(self, test, outcome, details):
        if self.current is None:  # a class or module fixture, or a test skipped before it starts
            self.send(event="end", test=test_name(test), outcome=outcome, details=details, seconds=0, loops=0)
            return
        if self.outcome != "failed":
            self.outcome = outcome
        self.details.append(details)

    def addError(self, test, err):
        self.note(test, "failed", "".join(traceback.format_exception(*err)))

    addFailure = addError

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.note(test, "failed", f"{subtest}\n" + "".join(traceback.format_exception(*err)))

    def addUnexpectedSuccess(self, test):
        self.note(test, "failed", "unexpected success")

    def addSkip(self, test, reason):
        self.note(test, "skipped", reason)


def test_name(test):
    return test.id().replace(PACKAGE + ".", "")


def tests_of(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_of(test)
        else:
            yield test


def run(order):
    os.set_inheritable(order.report_fd, False)
    reporter = Reporter(order.report_fd)
    if order.loop != "asyncio":
        replace_loop(loop_class(order.loop))
    try:
        module = importlib.import_module(f"{PACKAGE}.{order.module}")
    except unittest.SkipTest as skip:
        reporter.send(event="skip", reason=str(skip))
        return
    every_test = list(tests_of(unittest.defaultTestLoader.loadTestsFromModule(module)))
    chosen = [
        test
        for test in every_test
        if (not order.only or matches(test_name(test), order.only))
        and not matches(test_name(test), order.leave_out)
        and test_name(test) not in order.already_run
    ]
    reporter.send(event="tests", every=[test_name(t) for t in every_test], chosen=[test_name(t) for t in chosen])
    unittest.TestSuite(chosen).run(reporter)
    reporter.send(event="finished")


def main():
    faulthandler.enable()  # so that run.py's SIGABRT to a hanging test shows its stacks
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what runs behind it ignore the signal
    order = Order(**json.loads(sys.argv[1]))
    del sys.argv[1:]
    if not sys.flags.safe_path:
        del sys.path[0]  # this folder: the suite should find nothing of ours
    run(order)


if __name__ == "__main__":
    main()
