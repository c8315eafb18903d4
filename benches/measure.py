"""Measures one micro workload on one loop, in this process.

`python measure.py LOOP WORKLOAD --seconds S` prints a line of JSON;
`python measure.py LOOP WORKLOAD --operations N` only runs it, for tools that count instructions.
"""

import argparse
import json
import statistics
import time

import loops
from micro import WORKLOADS


def measure(run, chunk, seconds):
    """Run chunks for some `seconds`; return the median chunk's CPU and wall time per operation.

    CPU time of the whole process, since being preempted or waiting is not the loop's cost.
    """
    run(chunk)  # warms caches and the specialising interpreter; not counted
    cpu, wall = [], []
    end = time.perf_counter() + seconds
    while not cpu or time.perf_counter() < end:
        wall_before, cpu_before = time.perf_counter(), time.process_time()
        run(chunk)
        cpu.append(time.process_time() - cpu_before)
        wall.append(time.perf_counter() - wall_before)
    return {
        "operations": chunk * len(cpu),
        "cpu_us": statistics.median(cpu) / chunk * 1e6,
        "operations_per_second": chunk / statistics.median(wall),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("loop", choices=loops.NAMES + loops.PEERS)
    parser.add_argument("workload", choices=WORKLOADS)
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--seconds", type=float)
    amount.add_argument("--operations", type=int)
    options = parser.parse_args()

    workload = WORKLOADS[options.workload]
    with workload.on(loops.factory(options.loop)) as run:
        if options.operations is not None:
            run(options.operations)
        else:
            print(json.dumps(measure(run, workload.chunk, options.seconds)))


if __name__ == "__main__":
    main()
