"""What a program pays before it has its first loop: CPU time to import the loop's package and to make one.

`python first_loop.py LOOP --seconds S` measures it in new interpreters, one after the other, and prints a line of JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import loops

# asyncio is there before the clock starts: all loops need it.
FIRST_LOOP = """
import asyncio, sys, time
import loops
before = time.process_time()
loop = loops.new_event_loop(sys.argv[1])
spent = time.process_time() - before
loop.run_until_complete(asyncio.sleep(0))
loop.close()
print(spent)
"""

FEWEST = 5  # interpreters, however few fit into the time


def measure(loop_name, seconds):
    """Start interpreters for some `seconds`; return the median of their CPU times."""
    first_loop(loop_name)  # writes bytecode where there is none and brings the files into memory; not counted
    cpu = []
    end = time.perf_counter() + seconds
    while len(cpu) < FEWEST or time.perf_counter() < end:
        cpu.append(first_loop(loop_name))
    return {"operations": len(cpu), "cpu_us": statistics.median(cpu) * 1e6}


def first_loop(loop_name):
    """The CPU seconds of one new interpreter."""
    command = [sys.executable, "-W", "ignore", "-c", FIRST_LOOP, loop_name]
    # An installed package has its bytecode; a working copy's must be allowed to.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    folder = Path(__file__).parent
    answer = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    return float(answer.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("loop", choices=loops.NAMES + loops.PEERS)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    print(json.dumps(measure(options.loop, options.seconds)))


if __name__ == "__main__":
    main()
