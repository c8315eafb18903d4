"""A Rust future awaited from Python: velodrome-asyncio beside pyo3-async-runtimes with tokio, in one run.

`make bench-rust` builds both sides and runs this.

Microseconds of one thread's time (wall) and of all threads' (CPU) for `await rust_future()`, the median of the rounds.
"""

import argparse
import asyncio
import functools
import importlib.machinery
import importlib.util
import statistics
import sys
import time

import velodrome


def load(name, path):
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


async def awaits(make, count):
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        await make()
    return (time.perf_counter() - start) / count * 1e6, (time.process_time() - cpu) / count * 1e6


async def gathers(make, count):
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(count // 100):
        await asyncio.gather(*(make() for _ in range(100)))
    return (time.perf_counter() - start) / count * 1e6, (time.process_time() - cpu) / count * 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rust_extension")
    parser.add_argument("tokio_futures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=20_000)
    arguments = parser.parse_args()
    rust = load("rust_extension", arguments.rust_extension)
    tokio = load("tokio_futures", arguments.tokio_futures)
    ours, theirs = rust.probes.value, tokio.value
    loops = {"velodrome": velodrome.new_event_loop, "asyncio": asyncio.SelectorEventLoop}
    ways = {
        "velodrome-asyncio": (ours, "velodrome"),
        "tokio, on velodrome": (theirs, "velodrome"),
        "tokio, on asyncio": (theirs, "asyncio"),
    }
    rows = {
        "ready at once": (awaits, 0),
        "yields once": (awaits, 1),
        "yields once, 100 together": (gathers, 1),
    }
    # In turns, so that what else the machine does meets all alike.
    measured = {(row, way): [] for row in rows for way in ways}
    for _ in range(arguments.rounds):
        for row, (run, iterations) in rows.items():
            for way, (value, loop) in ways.items():
                make = functools.partial(value, None, iterations)
                with asyncio.Runner(loop_factory=loops[loop]) as runner:
                    measured[row, way].append(runner.run(run(make, arguments.count)))
    print(f"Python {sys.version.split()[0]}, {arguments.rounds} rounds of {arguments.count} awaits; µs wall, µs CPU")
    for row in rows:
        base = None
        for way in ways:
            wall, cpu = (statistics.median(values) for values in zip(*measured[row, way], strict=True))
            base = base or (wall, cpu)
            print(f"{row:26} {way:20} {wall:8.2f} {cpu:8.2f}   x{wall / base[0]:.1f} x{cpu / base[1]:.1f}")


if __name__ == "__main__":
    main()
