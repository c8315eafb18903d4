"""The same HTTP service on velodrome and on stock asyncio, under load, side by side.

    python examples/http_compare.py [--seconds 3] [--rounds 2] [--connections 32]

Each measurement starts http_service.py as a fresh process and loads it from this one: so many
keep-alive connections, each with one request on its way. Every answer is checked. Where there
are two cores, the service has one and the load another.
"""

import argparse
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

SERVICE = Path(__file__).with_name("http_service.py")
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
BODY = b"Hello from an asyncio event loop!\n"
LOOPS = ["velodrome", "asyncio"]
SILENCE_SECONDS = 10  # a service that says nothing for so long is broken


class Connection:
    """One keep-alive connection with one request on its way."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=SILENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def ask(self):
        self.socket.sendall(REQUEST)

    def has_answer(self, answer_length):
        """Take what has arrived; tell whether it completes an answer, which is then checked."""
        data = self.socket.recv(65536)
        if not data:
            raise SystemExit("the service closed a connection in the middle of the load")
        self.received += data
        if len(self.received) < answer_length:
            return False
        check_answer(self.received, answer_length)
        self.received = b""
        return True


def check_answer(answer, length):
    if len(answer) != length or not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(BODY):
        raise SystemExit(f"the service gave a wrong answer: {answer!r}")


def length_of_first_answer(connection):
    """All answers are equally long: their head differs in the date only."""
    connection.ask()
    answer = b""
    while not answer.endswith(BODY):
        data = connection.socket.recv(65536)
        if not data:
            raise SystemExit(f"the service closed the connection after {answer!r}")
        answer += data
    check_answer(answer, len(answer))
    return len(answer)


def load(connections, answer_length, until):
    """Ask and check answers on all connections until the clock says `until`; return how many."""
    answers = 0
    with select.epoll() as poller:
        by_fd = {connection.socket.fileno(): connection for connection in connections}
        for fd, connection in by_fd.items():
            poller.register(fd, select.EPOLLIN)
            connection.ask()
        waiting = len(by_fd)
        while waiting:
            events = poller.poll(SILENCE_SECONDS)
            if not events:
                raise SystemExit(f"the service has not answered for {SILENCE_SECONDS} s")
            more = time.monotonic() < until
            for fd, _ in events:
                connection = by_fd[fd]
                if connection.has_answer(answer_length):
                    answers += 1
                    if more:
                        connection.ask()
                    else:
                        waiting -= 1
    return answers


def cpu_seconds(pid):
    """What a process has used until now, all its threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def service(loop_name, core):
    """Start the service, yield (pid, address), and see it end in order."""
    pin = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
    command = [sys.executable, str(SERVICE), "--loop", loop_name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pin)
    try:
        ready = process.stdout.readline()
        if not ready:
            raise SystemExit(f"the service did not start on {loop_name}")
        url, _, loop_type = ready.strip().partition(" on ")
        if not loop_type.startswith(loop_name):
            raise SystemExit(f"the service runs on {loop_type}, not on {loop_name}")
        address = urlsplit(url)
        yield process.pid, (address.hostname, address.port)
        process.send_signal(signal.SIGINT)
        if process.wait(SILENCE_SECONDS) != 0:
            raise SystemExit(f"the service on {loop_name} ended with status {process.returncode}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measure(loop_name, seconds, connection_count, core):
    """Load one fresh service; return (answers, elapsed seconds, its CPU seconds)."""
    with service(loop_name, core) as (pid, address), contextlib.ExitStack() as stack:
        connections = [Connection(address) for _ in range(connection_count)]
        for connection in connections:
            stack.callback(connection.socket.close)
        answer_length = length_of_first_answer(connections[0])
        load(connections, answer_length, time.monotonic() + 0.5)  # warm: imports, allocations

        answers = 0
        cpu_before, started = cpu_seconds(pid), time.monotonic()
        for second in range(1, seconds + 1):
            done = load(connections, answer_length, started + second)
            answers += done
            print(f"  {loop_name:<10} second {second} of {seconds}: {done:>7,} requests", flush=True)
        elapsed = time.monotonic() - started
        return answers, elapsed, cpu_seconds(pid) - cpu_before


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=3, help="per measurement")
    parser.add_argument("--rounds", type=int, default=2, help="measurements per loop, taken in turn")
    parser.add_argument("--connections", type=int, default=32)
    arguments = parser.parse_args()

    cores = sorted(os.sched_getaffinity(0))
    service_core = None
    if len(cores) > 1:
        service_core = cores[0]
        os.sched_setaffinity(0, {cores[1]})

    totals = {name: [0, 0.0, 0.0] for name in LOOPS}
    for round_number in range(arguments.rounds):
        # Turn the order round, so that a machine getting slower or faster favours neither.
        for name in LOOPS if round_number % 2 == 0 else reversed(LOOPS):
            result = measure(name, arguments.seconds, arguments.connections, service_core)
            totals[name] = [total + part for total, part in zip(totals[name], result, strict=True)]

    rates = [totals[name][0] / totals[name][1] for name in LOOPS]
    costs = [totals[name][2] / totals[name][0] * 1e6 for name in LOOPS]
    print(f"\n{'':<28}{LOOPS[0]:>12}{LOOPS[1]:>12}")
    print(f"{'requests per second':<28}{rates[0]:>12,.0f}{rates[1]:>12,.0f}")
    print(f"{'server CPU per request, µs':<28}{costs[0]:>12.1f}{costs[1]:>12.1f}")
    print(
        f"\nOn this machine, velodrome served {rates[0] / rates[1]:.2f} times the requests"
        f" for {costs[0] / costs[1]:.2f} times the CPU each"
        f" (uvicorn, {arguments.connections} connections, keep-alive)."
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("http_compare: interrupted")
