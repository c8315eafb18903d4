"""Whose code a row's CPU time goes to, by perf: velodrome's extension, the kernel, CPython or other libraries.

Network rows, and the micro rows that callgrind.py leaves out, since a thread, a clock or another process decides what
they do. What is in the extension says what is left to win; velodrome's Python code, which runs once for a loop, a
connection or a child process, counts as CPython's.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import bench
import loops
import micro
import report
import run
import workloads
from callgrind import is_extension
from instructions import latest

PLAN = run.Plan(rounds=1, warm_up=0.5, window=2, micro=4)

# So often a second of CPU time, which is in step with nothing, and costs 1 to 2 % of it.
RECORD = ("perf", "record", "--quiet", "--event", "cpu-clock", "--freq", "9973")

ROWS = [*workloads.NETWORK, *(workload for workload in micro.WORKLOADS.values() if not workload.repeatable)]

PARTS = {"velodrome": "velodrome", "kernel": "kernel", "python": "CPython", "others": "other libraries"}

# Process, address and file of a sample. The kernel and its modules have the upper half of the addresses.
SAMPLE = re.compile(r"\s*(\d+)\s+([0-9a-f]+) \((.*)\)$")
KERNEL = 1 << 63

LEAST_SAMPLES = 1000  # 5 % of them are certain to 0.7
END_LIMIT = 20  # seconds in which perf writes what it has seen, once the server has ended


class Sampling(bench.Bench):
    """Has perf look at what is measured."""

    @property
    def perf(self):
        return [*RECORD, "--output", str(self.samples)]

    @property
    def samples(self):
        return Path(self.scratch, "perf.data")

    def alone(self, workload, loop):
        command = loop.command("measure.py", workload.name, "--seconds", str(self.plan.micro))
        delay = ["--delay", str(round(1000 * self.plan.warm_up))]  # not while it starts
        return json.loads(self.output_of([*self.perf, *delay, "--", *command], self.server_core))

    @contextlib.contextmanager
    def serving(self, command, core):
        with contextlib.ExitStack() as stack:
            with super().serving(command, core) as (server, address):
                questions, answers = (stack.enter_context(fifo(f"{self.samples}.{name}")) for name in ("in", "out"))
                control = ["--control", f"fifo:{questions.name},{answers.name}", "--pid", str(server.pid)]
                perf, complaints = self.start([*self.perf, *control], self.load_core)
                stack.enter_context(complaints)
                stack.enter_context(ending(perf))
                questions.write(b"ping\n")  # answered once it looks
                if not select.select([answers], [], [], bench.ANSWER_LIMIT)[0]:
                    raise bench.Failed(bench.said(complaints) or "perf does not begin")
                yield server, address
            # It ends by itself, after the server.
            with contextlib.suppress(subprocess.TimeoutExpired):
                perf.wait(END_LIMIT)
            if perf.returncode != 0 or bench.said(complaints):
                raise bench.Failed(bench.said(complaints) or f"perf ended with status {perf.returncode}")

    def parts(self):
        """How many samples of the last measurement are in each of PARTS."""
        script = ["perf", "script", "--input", str(self.samples), "--fields", "pid,ip,dso"]
        listed = subprocess.run(script, capture_output=True, text=True)
        if listed.returncode:
            raise bench.Failed(f"perf script: {listed.stderr.strip()}")
        found = parts_of(listed.stdout.splitlines())
        if found.total() < LEAST_SAMPLES:
            raise bench.Failed(f"perf took {found.total()} samples, too few")
        return found


@contextlib.contextmanager
def fifo(path):
    """Open on both sides, so that nobody waits for the other to open it."""
    os.mkfifo(path)
    try:
        with open(path, "r+b", buffering=0) as file:
            yield file
    finally:
        os.unlink(path)


@contextlib.contextmanager
def ending(process):
    """It has ended when the block has."""
    with process.stdout:
        try:
            yield
        finally:
            process.kill()
            process.wait()


def parts_of(lines):
    """Of the busiest process: what it starts is not the loop's."""
    processes = {}
    for pid, address, path in (found.groups() for found in map(SAMPLE.match, lines) if found):
        processes.setdefault(pid, Counter())[part(int(address, 16), path)] += 1
    return max(processes.values(), key=Counter.total, default=Counter())


def part(address, path):
    if address >= KERNEL:
        return "kernel"
    if is_extension(path):
        return "velodrome"
    is_python = "/lib-dynload/" in path or Path(path).name.startswith(("python", "libpython"))
    return "python" if is_python else "others"


def obstacle():
    """Why perf cannot be used here; None if it can."""
    if not shutil.which("perf"):
        return "perf is not on PATH (Debian: apt-get install linux-perf)"
    trial = ["perf", "record", "--quiet", "--event", "cpu-clock:k", "--output", os.devnull, "--", "true"]
    answer = subprocess.run(trial, capture_output=True, text=True)
    if answer.returncode:
        words = answer.stderr.strip().removeprefix("Error:").split("\n\n")[0]
        return f"perf may not look into the kernel: {' '.join(words.split()) or answer.returncode}"
    return None


# ---- for the page ----------------------------------------------------------------------------------------------------


def own_shares(records):
    """How much of a workload's CPU time is velodrome's own code, and what to say of the rest."""
    found = {}
    for record, _ in latest(records):
        own, kernel, python = (record["shares"][key] for key in ("velodrome", "kernel", "python"))
        rest = f"{1 - own:.0%} of the CPU time is not velodrome's, {kernel:.0%} the kernel's, {python:.0%} CPython's"
        found[record["workload"]] = own, rest
    return found


def section(records):
    head = ["workload", "Python", "date", *PARTS.values()]
    body = [
        [record["workload"], record["python"], record["date"][:10], *(f"{record['shares'][key]:.1%}" for key in PARTS)]
        for record, _ in latest(records)
    ]
    return report.as_markdown(head, body, "Sampled by perf")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loop", choices=loops.NAMES + loops.PEERS, default="velodrome")
    parser.add_argument("--only", type=re.compile, metavar="REGEX", help="rows whose name it finds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the results, one a line")
    options = parser.parse_args()
    if reason := obstacle():
        print(f"shares.py: nothing is measured: {reason}", file=sys.stderr)
        return 0
    # Ended from outside, it must still end its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    bench.build_loadgen()
    cores = sorted(os.sched_getaffinity(0))
    (loop,) = run.parse_loops(options.loop)
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        sampling = Sampling(PLAN, cores[0], cores[-1], scratch)
        for workload in ROWS:
            if options.only and not options.only.search(workload.name):
                continue
            result = sampling.measure(workload, loop)
            try:
                if missing := result.get("error") or result.get("not_installed"):
                    raise bench.Failed(missing)
                found = sampling.parts()
            except bench.Failed as failure:
                failed = True
                print(f"{workload.name:<34} FAILED: {failure}", file=sys.stderr)
                continue
            shares = {key: round(found[key] / found.total(), 4) for key in PARTS}
            print(f"{workload.name:<34}", *(f"{PARTS[key]} {share:.1%} " for key, share in shares.items()), flush=True)
            if options.json:
                record = {
                    "kind": "shares",
                    "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                    "python": loop.versions["python"],
                    "architecture": platform.machine(),
                    "kernel": platform.release(),
                    "loop": options.loop,
                    "version": loop.versions["loop"],
                    "workload": workload.name,
                    "samples": found.total(),
                    "shares": shares,
                }
                with open(options.json, "a") as lines:
                    print(json.dumps(record), file=lines)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
