"""Compare event loops by CPU time per operation, all in one run. README.md explains the method.

Each measurement is a fresh process: a server pinned to one core with a compiled load generator on another, or a
micro workload alone. Loops take turns inside a round, and ratios are taken inside a round.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import loops
import report
import system_calls
import workloads
from bench import CRATE, LONGEST_COUNT, PROGRAMS, SECONDS_PER_CONNECTION, Bench, build_loadgen

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    rounds: int
    warm_up: float  # seconds, as all below
    window: float
    micro: float

    def estimate(self, taken, counts_calls):
        """Wall time, for the workloads that each loop takes; starting and ending one is a quarter of a second."""
        once = sum(map(self.seconds_to_count, taken)) if counts_calls else 0
        return self.rounds * sum(self.seconds(workload) + 1 / 4 for workload in taken) + once

    def seconds(self, workload):
        match workload:
            case workloads.IdleWorkload():
                return 1  # for a thousand connections
            case _ if workloads.is_networked(workload):
                return self.warm_up + max(self.window, SECONDS_PER_CONNECTION * workload.connections)
            case _:
                return self.micro

    def seconds_to_count(self, workload):
        counted = workloads.has_countable_calls(workload)
        return self.warm_up + min(self.window, LONGEST_COUNT) + 1 / 2 if counted else 0


# Multiples of three rounds, so that each of three loops goes first, second and last equally often.
FULL = Plan(rounds=9, warm_up=0.25, window=1.2, micro=0.6)
QUICK = Plan(rounds=3, warm_up=0.1, window=0.5, micro=0.25)


@dataclass(frozen=True)
class LoopUnderTest:
    label: str  # unique in this run
    name: str  # which package
    python: str  # which interpreter has it
    settings: list  # what its processes find in their environment beside the usual

    def command(self, script, *arguments):
        # Warnings are silenced because any other output on standard error fails the measurement.
        return ["env", *self.settings, self.python, "-W", "ignore", str(HERE / script), self.name, *arguments]

    def server_command(self, workload, scratch):
        return self.command("servers.py", workload.server, scratch)

    def takes(self, workload):
        return True

    def lacks(self, workload):
        """What the workload needs and the loop's interpreter does not have."""
        if not workloads.is_networked(workload):
            return []
        return [package for package in workload.packages if package not in self.versions["services"]]

    @functools.cached_property
    def answer(self):
        """Of the loop's interpreter, which also shows that the package can be imported."""
        return subprocess.run(self.command("loops.py"), capture_output=True, text=True)

    @property
    def obstacle(self):
        """Why the loop does not work; None if it does."""
        if not self.answer.returncode:
            return None
        return (self.answer.stderr.strip().splitlines() or ["no reason given"])[-1]

    @property
    def versions(self):
        if self.obstacle:
            sys.exit(
                f"run.py: {self.name} does not work in {self.python}: {self.obstacle}\n"
                f"uvloop: pip install -r benches/requirements.txt; the same with requirements-peers.txt for others."
                f" velodrome: make bench builds it. Or choose with --loops."
            )
        return json.loads(self.answer.stdout)


@dataclass(frozen=True)
class FloorUnderTest:
    """A server without Python in the place of a loop."""

    label: str
    name: str  # a key of loops.FLOORS

    obstacle = None

    def server_command(self, workload, scratch):
        return [PROGRAMS / f"{self.name}-server", loops.FLOORS[self.name][workload.server], scratch]

    def takes(self, workload):
        return workloads.is_networked(workload) and workload.server in loops.FLOORS[self.name]

    def lacks(self, workload):
        return []

    @property
    def versions(self):
        """Of the crate of this name; if there is none, the kernel is all there is."""
        locked = tomllib.loads((CRATE / "Cargo.lock").read_text())["package"]
        found = {package["name"]: package["version"] for package in locked}
        return {"loop": found.get(self.name, platform.release()), "services": {}}


def parse_loops(text):
    """`NAME[@PYTHON],...`. A name given twice is measured twice, which shows the noise, or two builds.

    `all` are those that work in this interpreter, and the floors; asking them takes a second.
    """
    if text == "all":
        return parse_loops(",".join([*loops.EVERYONE, *loops.FLOORS]))
    found = []
    for item in text.split(","):
        name, _, python = item.partition("@")
        earlier = sum(loop.label.partition("#")[0] == name for loop in found)
        label = f"{name}#{earlier + 1}" if earlier else name
        if name in loops.FLOORS and not python:
            found.append(FloorUnderTest(label, name))
            continue
        package, settings = loops.VARIANTS.get(name, (name, []))
        if package in loops.NAMES + loops.PEERS:
            found.append(LoopUnderTest(label, package, python or sys.executable, settings))
        else:
            known = ", ".join([*loops.NAMES, *loops.VARIANTS, *loops.PEERS, *loops.FLOORS])
            raise argparse.ArgumentTypeError(f"no such loop: {item}; there are {known}")
    return found


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Give a loop twice (uvloop,uvloop) to see the noise, or from another virtual environment"
        " (velodrome@/path/to/python,velodrome) to compare two builds.",
    )
    parser.add_argument("--quick", action="store_true", help="short windows and three rounds: about twelve minutes")
    parser.add_argument("--rounds", type=int, help=f"default {FULL.rounds}, quick {QUICK.rounds}")
    parser.add_argument("--loops", type=parse_loops, default=",".join(loops.NAMES), metavar="NAME[@PYTHON],...|all")
    parser.add_argument("--suite", choices=workloads.SUITES, default="rows", help="what is measured; default rows")
    parser.add_argument("--only", type=re.compile, metavar="REGEX", help="workloads whose name it finds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement, one a line")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--cores", default="0,1", metavar="SERVER,LOAD", help="default 0,1")
    parser.add_argument("--list", action="store_true", help="name the workloads and stop")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds needs at least one")
    try:
        options.server_core, options.load_core = map(int, options.cores.split(","))
    except ValueError:
        parser.error("--cores takes two numbers, such as 0,1")
    if missing := {options.server_core, options.load_core} - os.sched_getaffinity(0):
        parser.error(f"this process may not use core {missing.pop()}; see --cores (twice the same is possible)")
    found = [w for w in workloads.SUITES[options.suite] if not options.only or options.only.search(w.name)]
    options.absent = {}
    if options.loops == parse_loops("all"):
        # Who cannot be had everywhere is not asked for by name.
        options.absent = {loop.name: loop.obstacle for loop in options.loops if loop.obstacle}
        options.loops = [loop for loop in options.loops if not loop.obstacle]
    options.selected = [w for w in found if any(loop.takes(w) for loop in options.loops)]
    if not options.selected:
        parser.error("--only selects no workload; see --list")
    return options


# ---- the run ----------------------------------------------------------------------------------


def main():
    options = parse_arguments()
    if options.list:
        print("\n".join(workload.name for workload in options.selected))
        return 0
    # Ended from outside, it must still end its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    plan = QUICK if options.quick else FULL
    plan = dataclasses.replace(plan, rounds=options.rounds or plan.rounds)
    if options.suite == "fairness":
        # A hundredth of the timers of a short window would be too few to speak of.
        plan = dataclasses.replace(plan, window=4 * plan.window)
    versions = {loop.label: loop.versions for loop in options.loops}
    build_loadgen()
    obstacle = system_calls.obstacle()
    if obstacle and any(map(workloads.has_countable_calls, options.selected)):
        progress(f"system calls are not counted: {obstacle}")
    os.sched_setaffinity(0, {options.load_core})  # this process too stays off the measured core

    header = {
        "kind": "run",
        "suite": options.suite,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "loops": versions,
        "absent_loops": options.absent,
        "plan": vars(plan),
        "server_core": options.server_core,
        "load_core": options.load_core,
        "system_calls_obstacle": obstacle,
    }
    labels = [loop.label for loop in options.loops]
    taken = [workload for loop in options.loops for workload in options.selected if loop.takes(workload)]
    minutes = plan.estimate(taken, not obstacle) / 60
    size = f"{len(options.selected)} workloads, {plan.rounds} rounds, {', '.join(labels)}"
    progress(f"{size}: about {max(minutes, 1):.0f} minutes")

    measurements = []
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(open(options.json, "w")) if options.json else None
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        write_line(lines, header)
        bench = Bench(plan, options.server_core, options.load_core, scratch)
        interrupted = False
        try:
            for measurement in all_rounds(bench, options.selected, options.loops, plan.rounds, not obstacle):
                measurements.append(measurement)
                write_line(lines, measurement)
        except KeyboardInterrupt:
            progress("interrupted; this is what was measured")
            interrupted = True
        rows = report.rows(measurements, labels)
        for row in rows:
            write_line(lines, {"kind": "summary", **summary(row)})
    print_report(header, rows, labels, measurements)
    if options.markdown:
        options.markdown.write_text(report.markdown(header, rows, labels, measurements))
    return 130 if interrupted else 1 if any(row.errors for row in rows) else 0


def all_rounds(bench, selected, loops_under_test, rounds, counts_calls=False):
    """Yield measurements; who goes first rotates, so that no loop always follows the same one.

    System calls are counted in the first round only: they are the same in all.
    """
    for number in range(rounds):
        turn = number % len(loops_under_test)
        order = loops_under_test[turn:] + loops_under_test[:turn]
        for workload in selected:
            found = {}
            for position, loop in enumerate(loop for loop in order if loop.takes(workload)):
                result = bench.measure(workload, loop)
                found[loop.label] = result
                if counts_calls and number == 0 and workload.cost in result and workloads.has_countable_calls(workload):
                    result |= bench.system_calls(workload, loop)
                yield {
                    "kind": "measurement",
                    "round": number,
                    "position": position,
                    "workload": workload.name,
                    "loop": loop.label,
                    "cost": workload.cost,
                    **result,
                }
            numbers = "  ".join(
                f"{loop.label} {result_of(found[loop.label], workload.cost)}"
                for loop in loops_under_test
                if loop.label in found
            )
            progress(f"round {number + 1}/{rounds}  {workload.name:<30} {numbers}  {report.UNITS[workload.cost]}")


def result_of(measurement, cost):
    if "not_installed" in measurement:
        return "not installed"
    return "FAILED" if "error" in measurement else report.significant(measurement[cost])


def machine():
    with open("/proc/cpuinfo") as cpuinfo:
        models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or "unknown",
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def summary(row):
    def plain(spread):
        return vars(spread) if spread else None

    return {
        "workload": row.workload,
        row.cost: {label: plain(spread) for label, spread in row.spent.items()},
        "operations_per_second": {label: plain(spread) for label, spread in row.throughput.items()},
        "ratio": plain(row.ratio),
        "errors": row.errors,
        "verdict": row.verdict,
    }


def write_line(lines, record):
    if lines:
        print(json.dumps(record), file=lines, flush=True)


def progress(text):
    print(text, file=sys.stderr, flush=True)


def print_report(header, rows, labels, measurements):
    print("\n".join(report.description(header)), end="\n\n")
    for table in [*report.tables(rows, labels), *report.summaries(rows, labels)]:
        print(report.as_text(*table), end="\n\n")
    for failure in report.failures(measurements):
        print(f"FAILED {failure}")
    print(f"{report.conclusion(rows, labels)} {report.noise(measurements)}".strip())


if __name__ == "__main__":
    sys.exit(main())
