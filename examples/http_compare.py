"""The same HTTP service on velodrome and on stock asyncio, under load, side by side.

    python examples/http_compare.py [--seconds 3] [--rounds 2] [--connections 32] [--report PAGE.html]

Each measurement starts http_service.py as a fresh process and loads it from this one: so many
keep-alive connections, each with one request on its way. Every answer is checked. Where there
are two cores, the service has one and the load another.
"""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from http_report import COST, LOOPS, RATE, Comparison, Measurement, page, shown

SERVICE = Path(__file__).with_name("http_service.py")
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
BODY = b"Hello from an asyncio event loop!\n"
SILENCE_SECONDS = 10  # a service that says nothing for so long is broken


class Connection:
    """One keep-alive connection with one request on its way."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=SILENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.asked_at = 0.0

    def ask(self):
        self.asked_at = time.monotonic()
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
    """Ask and check answers on all connections until the clock says `until`; return how long each answer took."""
    latencies = []
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
                    latencies.append(time.monotonic() - connection.asked_at)
                    if more:
                        connection.ask()
                    else:
                        waiting -= 1
    return latencies


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
    """Load one fresh service; return its Measurement."""
    with service(loop_name, core) as (pid, address), contextlib.ExitStack() as stack:
        connections = [Connection(address) for _ in range(connection_count)]
        for connection in connections:
            stack.callback(connection.socket.close)
        answer_length = length_of_first_answer(connections[0])
        load(connections, answer_length, time.monotonic() + 0.5)  # warm: imports, allocations

        latencies = []
        cpu_before, started = cpu_seconds(pid), time.monotonic()
        for second in range(1, seconds + 1):
            done = load(connections, answer_length, started + second)
            latencies += done
            print(f"  {loop_name:<10} second {second} of {seconds}: {len(done):>7,} requests", flush=True)
        elapsed, cpu = time.monotonic() - started, cpu_seconds(pid) - cpu_before
        return Measurement(loop_name, len(latencies), elapsed, cpu, sorted(latencies))


def facts():
    """What a reader of the numbers has to know of where they were measured."""
    with open("/proc/cpuinfo") as cpuinfo:
        models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    packages = ("velodrome", "uvicorn", "httptools")
    return {
        "Date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        "Processor": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "System": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages),
    }


def how(arguments, cores):
    """How it was measured, in sentences."""
    where = "a core of its own" if len(cores) > 1 else "the one core that the load is on, too"
    return [
        f"uvicorn serves a small ASGI application on {where}. One process loads it by {arguments.connections}"
        " keep-alive connections over loopback, each with one request on its way, and checks every answer. Each of"
        f" the {arguments.rounds} measurements of a loop starts a fresh process, warms it for half a second and lasts"
        f" {arguments.seconds} s; the loops take turns.",
        "A latency is from before a request is sent until its answer is complete, as the load sees it. A connection"
        " asks again when it has its answer: the load is as heavy as the service allows, and its latencies are those"
        " of a full queue, not of a service that has little to do.",
        "A difference is called clear where no measurement of one loop lies among those of the other. So few of them"
        " do not tell a small difference from chance, and other machines and services give other numbers.",
    ]


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=positive, default=3, help="per measurement")
    parser.add_argument("--rounds", type=positive, default=2, help="measurements per loop, taken in turn")
    parser.add_argument("--connections", type=positive, default=32)
    parser.add_argument("--report", type=Path, help="a file for the same as an HTML page")
    arguments = parser.parse_args()

    cores = sorted(os.sched_getaffinity(0))
    service_core = None
    if len(cores) > 1:
        service_core = cores[0]
        os.sched_setaffinity(0, {cores[1]})

    measurements = []
    for round_number in range(arguments.rounds):
        # Turn the order round, so that a machine getting slower or faster favours neither.
        for name in LOOPS if round_number % 2 == 0 else reversed(LOOPS):
            measurements.append(measure(name, arguments.seconds, arguments.connections, service_core))

    comparison = Comparison(measurements)
    rates, costs = ([shown(value, metric.format) for value in comparison.values(metric)] for metric in (RATE, COST))
    print(f"\n{'':<28}{LOOPS[0]:>12}{LOOPS[1]:>12}")
    print(f"{RATE.title:<28}{rates[0]:>12}{rates[1]:>12}")
    print(f"{COST.title:<28}{costs[0]:>12}{costs[1]:>12}")
    print(f"\nOn this machine, {comparison.sentence()} (uvicorn, {arguments.connections} connections, keep-alive).")
    if arguments.report:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text(page(measurements, facts(), how(arguments, cores)), encoding="utf-8")
        print(f"With latencies, as a page: {arguments.report}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("http_compare: interrupted")
