"""Instructions per operation of a micro workload, by valgrind: what noise cannot touch, for velodrome's own history.

Runs the workload at two lengths; the difference, divided by the extra operations, leaves out start-up and warm-up.
Instructions are not time: compare a loop with its own past here, and loops with each other by run.py.
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
from pathlib import Path

import loops
import micro

HERE = Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="+", choices=micro.WORKLOADS, metavar="WORKLOAD")
    parser.add_argument("--loop", choices=loops.NAMES, default="velodrome")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the results, one a line")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="keep the longer run's data")
    options = parser.parse_args()
    if options.profile and len(options.workloads) > 1:
        parser.error("--profile keeps one workload's data; name one")
    if not shutil.which("valgrind"):
        parser.error("valgrind is not on PATH (Debian: apt-get install valgrind)")

    for name in options.workloads:
        workload = micro.WORKLOADS[name]
        short, long = workload.chunk, 3 * workload.chunk
        few = count_instructions(options.loop, name, short)
        many = count_instructions(options.loop, name, long, options.profile)
        per_operation = (many - few) / (long - short)
        note = "" if workload.repeatable else "  (depends on a clock, a thread or another process: not repeatable)"
        print(f"{name:<30} {options.loop} {per_operation:,.0f} instructions/op{note}", flush=True)
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
            }
            with open(options.json, "a") as lines:
                print(json.dumps(record), file=lines)


def count_instructions(loop, workload, operations, profile=None):
    """Instructions of one whole process that does that many operations."""
    command = [
        "valgrind",
        "--tool=callgrind",
        f"--callgrind-out-file={profile or os.devnull}",
        sys.executable,
        str(HERE / "measure.py"),
        loop,
        workload,
        "--operations",
        str(operations),
    ]
    # One order of sets and dictionaries for all runs, else their collisions differ.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    collected = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode or not collected:
        sys.exit(f"callgrind.py: {workload} on {loop} ended with status {run.returncode}:\n{run.stderr[-2000:]}")
    return int(collected[1])


if __name__ == "__main__":
    main()
