"""Instructions per operation of a micro workload, by valgrind: what noise cannot touch, for velodrome's own history.

Runs the workload at two lengths; the difference, divided by the extra operations, leaves out start-up and warm-up.
Instructions are not time: compare a loop with its own past here, and loops with each other by run.py.

How many of them are in velodrome's extension says what is left to win: the others are the interpreter's, the C
library's and the program's.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import loops
import micro

HERE = Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="default: all that are repeatable")
    parser.add_argument("--loop", choices=loops.NAMES, default="velodrome")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the results, one a line")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="keep the longer run's data")
    options = parser.parse_args()
    if unknown := [name for name in options.workloads if name not in micro.WORKLOADS]:
        parser.error(f"no such workload: {', '.join(unknown)}; there are {', '.join(micro.WORKLOADS)}")
    repeatable = [name for name, workload in micro.WORKLOADS.items() if workload.repeatable]
    options.workloads = options.workloads or repeatable
    if options.profile and len(options.workloads) > 1:
        parser.error("--profile keeps one workload's data; name one")
    if not shutil.which("valgrind"):
        parser.error("valgrind is not on PATH (Debian: apt-get install valgrind)")

    for name in options.workloads:
        workload = micro.WORKLOADS[name]
        short, long = workload.chunk, 3 * workload.chunk
        few = count_instructions(options.loop, name, short)
        many = count_instructions(options.loop, name, long, options.profile)
        per_operation = (many.total() - few.total()) / (long - short)
        own = sum(count for path, count in (many - few).items() if is_extension(path)) / (long - short)
        note = "" if workload.repeatable else "  (depends on a clock, a thread or another process: not repeatable)"
        inside = f", {own:,.0f} in velodrome" if own else ""
        print(f"{name:<30} {options.loop} {per_operation:,.0f} instructions/op{inside}{note}", flush=True)
        if options.json:
            record = {
                "kind": "callgrind",
                "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "python": platform.python_version(),
                "architecture": platform.machine(),
                "loop": options.loop,
                "version": loops.version(options.loop),
                "workload": name,
                "instructions_per_operation": per_operation,
                "in_velodrome": own,
            }
            with open(options.json, "a") as lines:
                print(json.dumps(record), file=lines)


def is_extension(path):
    return Path(path).name.startswith("_native.")


def count_instructions(loop, workload, operations, profile=None):
    """Instructions of one whole process that does that many operations, by the file that they are in."""
    # One order of sets and dictionaries for all runs, else their collisions differ.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory() as folder:
        file = profile or Path(folder) / "callgrind.out"
        command = [
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={file}",
            sys.executable,
            str(HERE / "measure.py"),
            loop,
            workload,
            "--operations",
            str(operations),
        ]
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        if run.returncode:
            sys.exit(f"callgrind.py: {workload} on {loop} ended with status {run.returncode}:\n{run.stderr[-2000:]}")
        with open(file) as lines:
            counted = by_object(lines)
    collected = re.search(r"Collected : (\d+)", run.stderr)
    if not collected or int(collected[1]) != counted.total():
        sys.exit(
            f"callgrind.py: {counted.total()} instructions were read, not what callgrind says: {run.stderr[-2000:]}"
        )
    return counted


def by_object(lines):
    """What each file's own code has cost, from callgrind's output."""
    names, counted = {}, Counter()
    current, is_call = None, False
    for line in lines:
        if line.startswith(("ob=", "cob=")):
            # Written out where it is named first, here or as the one that is called: `ob=(1) /path`, later `ob=(1)`.
            kind, _, rest = line.strip().partition("=")
            number, _, name = rest.partition(" ")
            name = names.setdefault(number, name)
            current = name if kind == "ob" else current
        elif line.startswith("calls="):
            is_call = True  # the next line is what the called function cost
        elif line[:1] in "0123456789+-*":
            if not is_call:
                counted[current] += int(line.split()[1])
            is_call = False
    return counted


if __name__ == "__main__":
    main()
