"""Runs CPython's own `test.test_asyncio`, as the running interpreter has it, on velodrome.

    python tests/cpython/run.py [options] [TEST ...]

TEST is a module (test_events), a class or a test in it (test_tasks.CTask_CFuture_Tests.test_wait_for), or a pattern of
those (*sock_recv*). Without one the whole suite runs. What is left out, and why, is in excluded.toml.
"""

import argparse
import contextlib
import fnmatch
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

from run_module import Order, matches

HERE = Path(__file__).resolve().parent
VERSION = sys.version.split()[0]

# A process that is done with its tests has this long to end: the loop's own leftovers must not keep it alive.
EXIT_LIMIT_S = 20

# The slowest start first, so that none of them is left for the end, alone on one core.
SLOW_FIRST = ["test_ssl", "test_events", "test_sock_lowlevel", "test_tasks", "test_subprocess"]


# ---- what is left out -------------------------------------------------------------------------------------------

REASONS = ["duplicate", "private", "mock", "later", "stock fails"]  # what they mean is in excluded.toml


@dataclass
class Exclusion:
    tests: list[str]
    reason: str
    why: str
    since: str = "3.11"
    until: str = "3.99"

    def __post_init__(self):
        if self.reason not in REASONS:
            raise SystemExit(f"excluded.toml: {self.reason!r} is not one of {', '.join(REASONS)}")

    def applies(self, loop):
        since, until = (tuple(map(int, version.split("."))) for version in (self.since, self.until))
        if not since <= sys.version_info[: len(since)] or not sys.version_info[: len(until)] <= until:
            return False
        return loop != "asyncio" or self.reason == "stock fails"


def read_exclusions(loop):
    with open(HERE / "excluded.toml", "rb") as file:
        entries = tomllib.load(file).get("excluded", [])
    return [exclusion for entry in entries if (exclusion := Exclusion(**entry)).applies(loop)]


# ---- one module -------------------------------------------------------------------------------------------------


@dataclass
class Result:
    test: str
    outcome: str  # "passed", "failed", "skipped"
    details: str = ""
    seconds: float = 0.0
    loops: int = 0  # of the replaced kind, made during the test


@dataclass
class ModuleRun:
    module: str
    every: list[str] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)
    excluded: dict[str, Exclusion] = field(default_factory=dict)  # test -> why it was not run
    skip_reason: str | None = None  # the module does not apply here
    seconds: float = 0.0

    def add(self, result):
        # A test class's own failure can follow what its last test did; nothing may hide a failure.
        if (old := self.results.get(result.test)) is None or old.outcome != "failed":
            self.results[result.test] = result

    def with_outcome(self, outcome):
        return [result for result in self.results.values() if result.outcome == outcome]


class ModuleProcess:
    """One process that runs (the rest of) a module, and what it says."""

    running: set["ModuleProcess"] = set()
    interrupted = threading.Event()  # no further process is to start

    def __init__(self, order, folder, log):
        read_end, write_end = os.pipe()
        order.report_fd = write_end
        self.process = subprocess.Popen(
            # As regrtest: warnings are shown, and mixing bytes and str is an error.
            [sys.executable, "-W", "default", "-bb", HERE / "run_module.py", json.dumps(asdict(order))],
            pass_fds=[write_end],
            cwd=folder,
            env=child_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(write_end)
        self.read_end = read_end
        self.received = b""
        self.running.add(self)

    def next_event(self, deadline):
        """The next event, None when there will be none, or TimeoutError at the deadline."""
        while True:
            line, newline, rest = self.received.partition(b"\n")
            if newline:
                self.received = rest
                return json.loads(line)
            # In slices: a child of the process may hold the pipe open after the process is gone.
            if select.select([self.read_end], [], [], min(1, max(0, deadline - time.monotonic())))[0]:
                data = os.read(self.read_end, 65536)
                if not data:
                    return None
                self.received += data
            elif self.has_exited():
                return None
            elif time.monotonic() >= deadline:
                raise TimeoutError

    def has_exited(self):
        # Without reaping it: its process group must stay its own until the group is killed.
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def wait_for_exit(self, limit_s):
        deadline = time.monotonic() + limit_s
        while not self.has_exited():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def end(self):
        """Ends the process, if it runs still, and all that it started. Returns its exit status."""
        if not self.has_exited():
            os.kill(self.process.pid, signal.SIGABRT)  # faulthandler writes the stacks to the log
            self.wait_for_exit(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        os.close(self.read_end)
        self.running.discard(self)
        return self.process.wait()


def child_environment(folder):
    """The tests write into `folder`, so what a killed one leaves goes with it."""
    environment = {**os.environ, "TMPDIR": folder}
    if python_path := os.environ.get("PYTHONPATH"):  # a relative one would mean that folder
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, python_path.split(os.pathsep)))
    return environment


def run_module_tests(module, options, exclusions):
    """Runs a module's tests; after a crash or a hang, those that are left run in another process."""
    run = ModuleRun(module)
    started = time.monotonic()
    deadline = started + options.timeout
    left_out = [] if options.strict_list else exclusions
    while True:
        order = Order(
            module=module,
            loop=options.loop,
            only=options.tests,
            leave_out=[pattern for exclusion in left_out for pattern in exclusion.tests],
            already_run=list(run.results),
            report_fd=-1,
        )
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
            stopped_in = run_once(run, ModuleProcess(order, folder, log), options, deadline)
            if stopped_in is not None:
                test, why = stopped_in
                log.seek(0)
                output = log.read().decode(errors="replace")[-8000:]
                run.add(Result(test, "failed", f"{why}; the end of what the module wrote:\n{output}"))
        if stopped_in is None or set(run.chosen) <= set(run.results):
            break
        if time.monotonic() >= deadline or ModuleProcess.interrupted.is_set():
            break
    for test in run.chosen:
        if test not in run.results:
            # Without a result after a whole run: its class or module was skipped or failed, which has a result.
            ended = stopped_in is None
            run.add(Result(test, "skipped", "with its class") if ended else Result(test, "failed", "did not run"))
    for test in run.every:
        if not options.tests or matches(test, options.tests):
            run.excluded.update((test, exclusion) for exclusion in left_out if matches(test, exclusion.tests))
    run.seconds = time.monotonic() - started
    return run


def run_once(run, process, options, module_deadline):
    """Follows one process. Returns None if it ended well, else the name of the test that ended it and why."""
    current = f"{run.module}.<import>"
    try:
        while True:
            deadline = min(module_deadline, time.monotonic() + options.test_timeout)
            event = process.next_event(deadline)
            match event:
                case None:
                    break
                case {"event": "tests", "every": every, "chosen": chosen}:
                    run.every = every
                    run.chosen = run.chosen or chosen
                case {"event": "start", "test": test}:
                    current = test
                case {"event": "end", **result}:
                    run.add(Result(**result))
                    current = f"{run.module}.<after {result['test']}>"
                case {"event": "skip", "reason": reason}:
                    run.skip_reason = reason
                    current = f"{run.module}.<exit>"
                case {"event": "finished"}:
                    current = f"{run.module}.<exit>"
                    if not process.wait_for_exit(EXIT_LIMIT_S):
                        raise TimeoutError
                    break
    except TimeoutError:
        process.end()
        return current, "killed at its time limit"
    status = process.end()
    if status == 0 and current.endswith("<exit>"):
        return None
    died = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return current, f"the process died: {died}"


# ---- the whole --------------------------------------------------------------------------------------------------


def suite_modules():
    import test.test_asyncio

    found = sorted(path.stem for path in Path(test.test_asyncio.__file__).parent.glob("test_*.py"))
    return sorted(found, key=lambda name: SLOW_FIRST.index(name) if name in SLOW_FIRST else len(SLOW_FIRST))


def holds(module, pattern):
    """Whether the pattern can name tests of the module."""
    return pattern.startswith("*") or fnmatch.fnmatchcase(module, pattern.partition(".")[0])


def check_list(run, exclusions, strict):
    """Says what the list of exclusions has wrong about a module."""
    if not run.every:
        return  # nothing is known of it: not for this platform, or it failed as a whole
    for exclusion in exclusions:
        for pattern in exclusion.tests:
            if not holds(run.module, pattern):
                continue
            named = [test for test in run.every if matches(test, [pattern])]
            if not named:
                yield f"{pattern} names no test in Python {VERSION}"
            if strict and exclusion.reason != "duplicate":
                passed = [test for test in named if test in run.results and run.results[test].outcome == "passed"]
                yield from (f"{test} passes, though listed ({exclusion.reason})" for test in passed)


def forgive_listed(run, exclusions):
    """With --strict-list the excluded tests run: what was bound to fail counts as left out."""
    listed = [pattern for exclusion in exclusions for pattern in exclusion.tests]
    for result in run.with_outcome("failed"):
        if matches(result.test, listed):
            result.outcome, result.details = "skipped", "fails, as listed"


def summary_line(run, loop):
    if run.skip_reason is not None:
        return f"{run.module:24} not for this platform: {run.skip_reason}"
    counts = "  ".join(f"{len(run.with_outcome(outcome)):4} {outcome}" for outcome in ("passed", "failed", "skipped"))
    made = [result.loops for result in run.results.values() if result.loops]
    loops = "" if loop == "asyncio" else f"  {len(made):4} tests made {sum(made):4} {loop} loops"
    return f"{run.module:24} {counts}  {len(run.excluded):4} excluded{loops}  {run.seconds:6.1f} s"


def print_details(run, verbose):
    if verbose:
        for test, exclusion in run.excluded.items():
            print(f"excluded {test} ({exclusion.reason}: {exclusion.why})")
    for result in run.results.values():
        if verbose:
            reason = f" ({result.details})" if result.outcome == "skipped" else ""
            print(f"{result.outcome:8} {result.test}  {result.loops} loops  {result.seconds:.2f} s{reason}")
        if result.outcome == "failed":
            print(f"======== FAILED {result.test}\n{result.details}\n", flush=True)


def describe(loop):
    build = " (debug build)" if hasattr(sys, "gettotalrefcount") else ""
    try:
        version = "" if loop == "asyncio" else importlib.import_module(loop).__version__
    except ImportError as error:
        sys.exit(f"{loop} cannot be imported: {error}")
    return f"test_asyncio of CPython {VERSION}{build} on {loop} {version}".rstrip()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("tests", nargs="*", metavar="TEST")
    option("--loop", choices=["velodrome", "asyncio", "uvloop"], default="velodrome",
           help="the loop under test; asyncio is the unchanged suite (default: velodrome)")
    option("-j", "--jobs", type=int, default=2, help="modules at once (default: 2)")
    option("--timeout", type=float, default=600, metavar="SECONDS", help="limit for a module (default: 600)")
    option("--test-timeout", type=float, default=60, metavar="SECONDS", help="limit for a test (default: 60)")
    option("--strict-list", action="store_true", help="run the excluded tests as well; one that passes is an error")
    option("-v", "--verbose", action="store_true", help="a line for each test")
    return parser.parse_args()


def main():
    options = parse_arguments()
    exclusions = read_exclusions(options.loop)
    modules = suite_modules()
    list_errors = [
        f"{pattern} names no module of Python {VERSION}'s suite"
        for exclusion in exclusions
        for pattern in exclusion.tests
        if not any(holds(module, pattern) for module in modules)
    ]
    if options.tests:
        modules = [module for module in modules if any(holds(module, pattern) for pattern in options.tests)]
    print(describe(options.loop), flush=True)

    started = time.monotonic()
    runs = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            futures = [pool.submit(run_module_tests, module, options, exclusions) for module in modules]
            for future in as_completed(futures):
                run = future.result()
                list_errors += check_list(run, exclusions, options.strict_list)
                forgive_listed(run, exclusions)
                print_details(run, options.verbose)
                if run.results or run.skip_reason is not None:
                    print(summary_line(run, options.loop), flush=True)
                runs.append(run)
        except BaseException:
            ModuleProcess.interrupted.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(ModuleProcess.running):
                os.killpg(process.process.pid, signal.SIGKILL)
            raise

    failed = [result for run in runs for result in run.with_outcome("failed")]
    passed, skipped = (sum(len(run.with_outcome(outcome)) for run in runs) for outcome in ("passed", "skipped"))
    excluded = Counter(exclusion.reason for run in runs for exclusion in run.excluded.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in excluded.most_common())
    print(f"{time.monotonic() - started:.0f} s; excluded: {reasons or 'none'}")
    for result in failed:
        print(f"FAILED {result.test}")
    for error in list_errors:
        print(f"excluded.toml: {error}")
    print(f"{passed} passed, {len(failed)} failed, {skipped + excluded.total()} skipped")
    if not passed and not failed:
        sys.exit("no test ran")
    loops = sum(result.loops for run in runs for result in run.results.values())
    if options.loop != "asyncio" and not options.tests and not loops:
        sys.exit(f"no test made a {options.loop} loop: nothing was replaced")
    sys.exit(bool(failed or list_errors))


if __name__ == "__main__":
    main()
