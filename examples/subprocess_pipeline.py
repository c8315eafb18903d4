"""A pipeline of processes, as a shell makes it: which words does a text use most?

    python examples/subprocess_pipeline.py README.md

The data between the processes do not pass through Python; what goes in and what comes out does.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys

import velodrome


async def start_pipeline(*commands):
    """Start the commands, each reading what the one before writes; returns the processes."""
    processes = []
    source = asyncio.subprocess.PIPE
    # The processes have their ends of the pipes. Ours must go, or nobody would see the end of the data.
    with contextlib.ExitStack() as ours:
        for number, command in enumerate(commands, start=1):
            if number < len(commands):
                next_source, sink = os.pipe()
                ours.callback(os.close, next_source)
                ours.callback(os.close, sink)
            else:
                next_source, sink = None, asyncio.subprocess.PIPE
            processes.append(await asyncio.create_subprocess_exec(*command, stdin=source, stdout=sink))
            source = next_source
    return processes


async def feed(process, data):
    try:
        process.stdin.write(data)
        await process.stdin.drain()
    except ConnectionError:
        pass  # it has enough, as `head` does
    finally:
        process.stdin.close()


async def count_words(text, most):
    processes = await start_pipeline(
        ["tr", "-cs", "[:alpha:]", "\n"],
        ["tr", "[:upper:]", "[:lower:]"],
        ["sort"],
        ["uniq", "-c"],
        ["sort", "-k1,1nr", "-k2"],
        ["head", "-n", str(most)],
    )
    # Both at once: a pipe holds little, and who only writes waits for ever once it is full.
    _, output = await asyncio.gather(feed(processes[0], text), processes[-1].stdout.read())
    statuses = await asyncio.gather(*[process.wait() for process in processes])
    # Who writes to one that has ended, as `head` does early, is ended by SIGPIPE.
    if not {0, -signal.SIGPIPE}.issuperset(statuses):
        raise SystemExit(f"a process has failed: {statuses}")
    return [line.split() for line in output.decode().splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", help="stdin, if there is none")
    parser.add_argument("--most", type=int, default=5)
    arguments = parser.parse_args()
    with open(arguments.file, "rb") if arguments.file else sys.stdin.buffer as file:
        text = file.read()
    for count, word in velodrome.run(count_words(text, arguments.most)):
        print(count, word)


if __name__ == "__main__":
    main()
