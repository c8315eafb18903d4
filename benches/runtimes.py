"""velodrome for Rust programs beside other runtimes: CPU per operation of one thread, in one run.

`make bench-rust` builds `benches/runtimes` and runs this. Each measurement is a new process on one core; the runtimes
take turns inside a round. Options: --rounds, --seconds, --only REGEX, --json FILE.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import report

# The buffers are the workloads' own. Without this, glibc gives their memory back after each block and fetches it for
# the next one: up to a tenth of echo-100k-10, more or less of it by the order in which tasks end.
ENVIRONMENT = os.environ | {"MALLOC_TOP_PAD_": str(64 << 20)}
FOLDER = Path(__file__).resolve().parent / "runtimes"
# "transports" is velodrome by protocols instead of tasks, in the echo workloads.
OURS = ["velodrome", "transports"]
RUNTIMES = [*OURS, "tokio", "smol", "monoio", "compio"]
WORKLOADS = [
    "spawn",
    "yield",
    "yield-100",
    "ping-pong",
    "timer-cancel",
    "timer-fire",
    "echo-1k-10",
    "echo-1k-100",
    "echo-100k-10",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--only", default="", metavar="REGEX", help="workloads to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, one measurement a line")
    options = parser.parse_args()
    chosen = [name for name in WORKLOADS if re.search(options.only, name)]
    if not chosen:
        parser.error(f"no workload matches; there are {', '.join(WORKLOADS)}")
    if options.rounds < 1:
        parser.error("--rounds: at least 1")

    if not shutil.which("cargo"):
        parser.error("cargo is not on PATH: Rust is needed to build the runtimes")
    if subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=FOLDER).returncode:
        sys.exit("runtimes.py: benches/runtimes does not build (see above)")
    spent = {name: {runtime: [] for runtime in RUNTIMES} for name in chosen}
    interrupted = False
    try:
        measure_all(spent, options)
    except KeyboardInterrupt:
        interrupted = True
    print("\n".join(summary(spent)))
    if options.json:
        header = {"kind": "runtimes", "date": now(), "machine": platform.machine(), "versions": versions()}
        with open(options.json, "w") as lines:
            print(json.dumps(header), file=lines)
            for name, by_runtime in spent.items():
                print(json.dumps({"workload": name, "cpu_ns": by_runtime}), file=lines)
    if interrupted:
        sys.exit(130)


def measure_all(spent, options):
    """Fill `spent`, so that what is there when it is interrupted can be shown."""
    core = max(os.sched_getaffinity(0))
    for turn in range(options.rounds):
        shift = turn % len(RUNTIMES)
        for name, by_runtime in spent.items():
            for runtime in RUNTIMES[shift:] + RUNTIMES[:shift]:
                if runtime == "transports" and not name.startswith("echo"):
                    continue
                by_runtime[runtime].append(measure(runtime, name, options.seconds, core))
            print(f"round {turn + 1}/{options.rounds}  {name}", file=sys.stderr, flush=True)


def measure(runtime, workload, seconds, core):
    """CPU nanoseconds for an operation; None if the runtime fails."""
    run = subprocess.run(
        [FOLDER / "target/release/runtimes", runtime, workload, str(seconds)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: os.sched_setaffinity(0, [core]),
    )
    if run.returncode:
        print(f"FAILED {workload} on {runtime}: {run.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return float(run.stdout)


def summary(spent):
    """Medians, and what velodrome costs beside the cheapest other one, by round."""
    yield f"{now()}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores; ns of CPU per operation, median"
    yield " ".join(f"{name} {version}" for name, version in versions().items())
    yield ""
    head, body = ["workload", *RUNTIMES, "velodrome/best", "[min..max]", ""], []
    for name, by_runtime in spent.items():
        medians = {runtime: statistics.median(kept) for runtime, kept in numbers(by_runtime).items()}
        cells = [
            f"{medians[runtime]:,.0f}" if runtime in medians else "failed" if by_runtime[runtime] else "-"
            for runtime in RUNTIMES
        ]
        others = [runtime for runtime in medians if runtime not in OURS]
        best = min(others, key=medians.get, default=None)
        ratios = [
            ours / theirs
            # Interrupted in the middle of a round, one may have a number more.
            for ours, theirs in zip(by_runtime["velodrome"], by_runtime.get(best, []), strict=False)
            if ours and theirs
        ]
        if not ratios:
            body.append([name, *cells, "-", "-", ""])
            continue
        middle = statistics.median(ratios)
        verdict = best if middle <= 1 else f"{best}  LOSES" + (" (within noise)" if min(ratios) <= 1 else "")
        body.append([name, *cells, f"{middle:.2f}", f"[{min(ratios):.2f}..{max(ratios):.2f}]", verdict])
    yield report.as_text(head, body)


def numbers(by_runtime):
    kept = {runtime: [value for value in values if value is not None] for runtime, values in by_runtime.items()}
    return {runtime: values for runtime, values in kept.items() if values}


def versions():
    lock = (FOLDER / "Cargo.lock").read_text()
    crates = {
        "velodrome": "velodrome",
        "tokio": "tokio",
        "smol": "async-executor",
        "monoio": "monoio",
        "compio": "compio",
    }
    found = dict(re.findall(r'name = "([^"]+)"\nversion = "([^"]+)"', lock))
    return {runtime: found[crate] for runtime, crate in crates.items()}


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


if __name__ == "__main__":
    main()
