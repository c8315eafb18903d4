"""Compare event loops by CPU time per operation, all in one run. README.md explains the method.

Each measurement is a fresh process: a server pinned to one core with a compiled load generator on another, or a
micro workload alone. Loops take turns inside a round, and ratios are taken inside a round.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import functools
import json
import os
import platform
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import fairness
import loops
import report
import scaling
import servers
import workloads

HERE = Path(__file__).resolve().parent
CRATE = HERE / "loadgen"
PROGRAMS = CRATE / "target" / "release"
LOADGEN = PROGRAMS / "loadgen"

DESCRIPTORS = 12_000  # what a process may open, if it is allowed to; 1024 is a common limit
OTHER_DESCRIPTORS = 100  # what it opens beside its connections

# A window is no shorter than this for each connection: all of them get their turns in it.
SECONDS_PER_CONNECTION = 200e-6

ANSWER_LIMIT = 20  # seconds; a server that has not printed its address by then hangs


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    rounds: int
    warm_up: float  # seconds, as all below
    window: float
    micro: float

    def estimate(self, selected, loop_count):
        """Wall time: a second for a thousand connections, a quarter for starting and ending each measurement."""
        idle = sum(isinstance(workload, workloads.IdleWorkload) for workload in selected)
        network = sum(is_networked(workload) for workload in selected) - idle
        each_loop = network * (self.warm_up + self.window) + (len(selected) - network - idle) * self.micro + idle
        return self.rounds * loop_count * (each_loop + len(selected) / 4)


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
        if not is_networked(workload):
            return []
        return [package for package in workload.packages if package not in self.versions["services"]]

    @functools.cached_property
    def versions(self):
        """Ask the loop's interpreter, which also shows that the package can be imported."""
        answer = subprocess.run(self.command("loops.py"), capture_output=True, text=True)
        if answer.returncode:
            reason = answer.stderr.strip().splitlines()[-1:] or ["no reason given"]
            sys.exit(
                f"run.py: {self.name} does not work in {self.python}: {reason[0]}\n"
                f"uvloop: pip install -r benches/requirements.txt; the same with requirements-peers.txt for others."
                f" velodrome: make bench builds it. Or choose with --loops."
            )
        return json.loads(answer.stdout)


@dataclass(frozen=True)
class FloorUnderTest:
    """A server without Python in the place of a loop."""

    label: str
    name: str  # a key of loops.FLOORS

    def server_command(self, workload, scratch):
        return [PROGRAMS / f"{self.name}-server", workload.server, scratch]

    def takes(self, workload):
        return is_networked(workload) and workload.server in loops.FLOORS[self.name]

    def lacks(self, workload):
        return []

    @property
    def versions(self):
        """Of the crate of this name; if there is none, the kernel is all there is."""
        locked = tomllib.loads((CRATE / "Cargo.lock").read_text())["package"]
        found = {package["name"]: package["version"] for package in locked}
        return {"loop": found.get(self.name, platform.release()), "services": {}}


def is_networked(workload):
    """Whether there is a server under load."""
    return isinstance(workload, (workloads.NetworkWorkload, workloads.IdleWorkload, fairness.Situation))


def parse_loops(text):
    """`NAME[@PYTHON],...`. A name given twice is measured twice, which shows the noise, or two builds."""
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
    parser.add_argument("--quick", action="store_true", help="short windows and three rounds: about nine minutes")
    parser.add_argument("--rounds", type=int, help=f"default {FULL.rounds}, quick {QUICK.rounds}")
    parser.add_argument("--loops", type=parse_loops, default=",".join(loops.NAMES), metavar="NAME[@PYTHON],...")
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
    options.selected = [w for w in found if any(loop.takes(w) for loop in options.loops)]
    if not options.selected:
        parser.error("--only selects no workload; see --list")
    return options


# ---- one measurement --------------------------------------------------------------------------


class Failed(Exception):
    """A measurement that has no number; the text says why."""


class Bench:
    """Measures one workload on one loop, in processes of its own."""

    def __init__(self, plan, server_core, load_core, scratch):
        self.plan = plan
        self.server_core = server_core
        self.load_core = load_core
        self.spent = collections.Counter()  # core -> CPU seconds of this measurement's own processes
        self.scratch = scratch  # a folder for sockets, a certificate and what processes say on standard error
        make_certificate(os.path.join(scratch, servers.CERTIFICATE))
        # What these would switch on is not what is compared here.
        switches = ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONMALLOC", "PYTHONTRACEMALLOC")
        self.environment = {key: value for key, value in os.environ.items() if key not in switches}

    def measure(self, workload, loop):
        """Return the measurement as a dictionary; a failure is one with the key `error`, and what its interpreter
        lacks is under `not_installed`."""
        if lacking := loop.lacks(workload):
            return {"not_installed": lacking}
        networked = is_networked(workload)
        cores = {self.server_core, self.load_core} if networked else {self.server_core}
        self.spent.clear()
        load_average, started, own_before = os.getloadavg()[0], time.perf_counter(), time.process_time()
        busy_before = {core: core_busy_seconds(core) for core in cores}
        try:
            if isinstance(workload, fairness.Situation):
                result = self.served(workload, loop)
            else:
                result = self.network(workload, loop) if networked else self.alone(workload, loop)
        except Failed as failure:
            return {"error": str(failure)}
        elapsed = time.perf_counter() - started
        self.spent[self.load_core] += time.process_time() - own_before
        foreign = max(core_busy_seconds(core) - busy_before[core] - self.spent[core] for core in cores) / elapsed
        return {**result, "foreign_share": round(max(foreign, 0.0), 4), "load_average": load_average}

    def alone(self, workload, loop):
        """Run a workload without a peer, which has a script of its own."""
        match workload:
            case workloads.FirstLoopWorkload():
                command = loop.command("first_loop.py")
            case scaling.SizedWorkload():
                command = loop.command("scaling.py", workload.name)
            case _:
                command = loop.command("measure.py", workload.name)
        command += ["--seconds", str(self.plan.micro)]
        return json.loads(self.output_of(command, self.server_core, timeout=60 + 10 * self.plan.micro))

    def network(self, workload, loop):
        """Let the load generator have at a server, or at several that share a port."""
        needed, (_, allowed) = workload.connections + OTHER_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)
        if needed > allowed:
            raise Failed(f"needs {needed} descriptors, of which this machine allows a process {allowed}")
        command = loop.server_command(workload, self.scratch)
        with self.reserved_port(), contextlib.ExitStack() as stack:
            cores = [self.server_core, self.load_core][: workload.processes]
            started = [stack.enter_context(self.serving(command, core)) for core in cores]
            (_, address), *_ = started
            pids = [server.pid for server, _ in started]
            load = json.loads(self.output_of(self.load_command(workload, address, pids), self.load_core))
        return self.memory(load) if isinstance(workload, workloads.IdleWorkload) else self.cpu(load)

    def served(self, situation, loop):
        """What the load generator saw of the echoes, and the server of its timers."""
        command = loop.command("fairness.py", situation.name, str(self.plan.warm_up))
        with self.serving(command, self.server_core) as (server, address):
            load = json.loads(self.output_of(self.load_command(situation, address, [server.pid]), self.load_core))
            seen = self.line_of(server)
        if situation.cost not in seen:
            raise Failed("no timer was due in the window")
        return {**self.cpu(load), **seen}

    @contextlib.contextmanager
    def reserved_port(self):
        """Write into the scratch folder which port servers can share meanwhile; nobody else will be given it."""
        with socket.socket() as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind(("127.0.0.1", 0))
            Path(self.scratch, servers.PORT).write_text(str(reserved.getsockname()[1]))
            yield

    @contextlib.contextmanager
    def serving(self, command, core):
        """A server process and its address, until the block ends."""
        server, complaints = self.start(command, core)
        try:
            yield server, self.line_of(server)
            if server.poll() is not None or said(complaints):
                raise Failed(f"server: ended with status {server.returncode}")
        except Failed as failure:
            # The generator only sees a connection fail; what the server said is the reason.
            raise Failed(said(complaints) or str(failure)) from None
        finally:
            server.kill()
            with self.charging(core):
                server.wait()
            server.stdout.close()
            complaints.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.scratch, "server.sock"))

    def memory(self, load):
        grown = load["server_bytes_after"] - load["server_bytes_before"]
        return {"connections": load["connections"], "kib_per_connection": grown / load["connections"] / 1024}

    def cpu(self, load):
        operations = load["operations"]
        if not operations:
            raise Failed("no operation completed in the window")
        if load["least_server_cpu_seconds"] < load["server_cpu_seconds"] / 20:
            raise Failed("one of the servers got next to nothing to do")
        return {
            "operations": operations,
            "cpu_us": load["server_cpu_seconds"] / operations * 1e6,
            "operations_per_second": operations / load["seconds"],
            "server_busy_share": round(load["server_cpu_seconds"] / load["seconds"], 4),
            "load_busy_share": round(load["load_cpu_seconds"] / load["seconds"], 4),
            **{key: value for key, value in load.items() if key.startswith("latency_")},
        }

    def load_command(self, workload, address, server_pids):
        (family, where), *_ = address.items()
        numbers = {
            "--connections": workload.connections,
            "--warm-up-ms": round(self.plan.warm_up * 1000),
            "--window-ms": round(1000 * max(self.plan.window, SECONDS_PER_CONNECTION * workload.connections)),
        }
        pairs = [*numbers.items(), *(("--server-pid", pid) for pid in server_pids)]
        options = [str(part) for pair in pairs for part in pair]
        if isinstance(workload, workloads.IdleWorkload):
            options.append("--idle")
        return [LOADGEN, f"--{family}", where, *workload.exchange, *options]

    def line_of(self, server):
        """The next line of JSON that the server prints."""
        ready, _, _ = select.select([server.stdout], [], [], ANSWER_LIMIT)
        if not ready:
            raise Failed(f"server said nothing for {ANSWER_LIMIT} s")
        line = server.stdout.readline()
        if not line:
            raise Failed("server ended before it was asked to")
        return json.loads(line)

    def start(self, command, core):
        complaints = tempfile.TemporaryFile(dir=self.scratch)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=self.environment,
            preexec_fn=lambda: confine(core),
        )
        return process, complaints

    def output_of(self, command, core, timeout=60):
        """What the command prints, once it has ended well and without complaints."""
        process, complaints = self.start(command, core)
        try:
            with self.charging(core):
                output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"did not end within {timeout:.0f} s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
            words = said(complaints)
            complaints.close()
        if process.returncode or words:
            raise Failed(words or f"ended with status {process.returncode}")
        return output

    @contextlib.contextmanager
    def charging(self, core):
        """Charge to `core` the CPU time of the process that is waited for inside."""
        before = children_cpu_seconds()
        yield
        self.spent[core] += children_cpu_seconds() - before


def confine(core):
    """In a child process: keep to one core, and have descriptors for thousands of connections."""
    os.sched_setaffinity(0, {core})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))


def said(complaints):
    """The last line of what a process wrote to standard error, with how much came before it."""
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    if not lines:
        return ""
    return lines[-1] + (f" (and {len(lines) - 1} lines before)" if len(lines) > 1 else "")


def core_busy_seconds(core):
    """Seconds the core was not idle since boot, whoever used it; a host that took it away counts as a user."""
    with open("/proc/stat") as stat:
        for line in stat:
            name, *ticks = line.split()
            if name == f"cpu{core}":
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
                return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    raise RuntimeError(f"/proc/stat does not know core {core}")


def children_cpu_seconds():
    """Of the children that have ended and been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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
    os.sched_setaffinity(0, {options.load_core})  # this process too stays off the measured core

    header = {
        "kind": "run",
        "suite": options.suite,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "loops": versions,
        "plan": vars(plan),
        "server_core": options.server_core,
        "load_core": options.load_core,
    }
    labels = [loop.label for loop in options.loops]
    minutes = plan.estimate(options.selected, len(labels)) / 60
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
            for measurement in all_rounds(bench, options.selected, options.loops, plan.rounds):
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


def all_rounds(bench, selected, loops_under_test, rounds):
    """Yield measurements; who goes first rotates, so that no loop always follows the same one."""
    for number in range(rounds):
        turn = number % len(loops_under_test)
        order = loops_under_test[turn:] + loops_under_test[:turn]
        for workload in selected:
            found = {}
            for position, loop in enumerate(loop for loop in order if loop.takes(workload)):
                result = bench.measure(workload, loop)
                found[loop.label] = result
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


def build_loadgen():
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", CRATE / "Cargo.toml"]
    try:
        subprocess.run([*command, "--target-dir", CRATE / "target"], check=True)
    except FileNotFoundError:
        sys.exit("run.py: the load generator is written in Rust; cargo is not on PATH")
    except subprocess.CalledProcessError:
        sys.exit("run.py: the load generator does not build")


def make_certificate(path):
    """A key and a certificate made with it, for this run only: of the kind most sites have, ECDSA over P-256."""
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    try:
        made = subprocess.run(["openssl", "req", "-x509", *kind, "-keyout", "-"], capture_output=True)
    except FileNotFoundError:
        sys.exit("run.py: the TLS workloads need a certificate; openssl is not on PATH")
    if made.returncode:
        sys.exit(f"run.py: openssl makes no certificate: {made.stderr.decode(errors='replace').strip()}")
    Path(path).write_bytes(made.stdout)


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
    for table in report.tables(rows, labels):
        print(report.as_text(*table), end="\n\n")
    for failure in report.failures(measurements):
        print(f"FAILED {failure}")
    print(f"{report.conclusion(rows, labels)} {report.noise(measurements)}".strip())


if __name__ == "__main__":
    sys.exit(main())
