"""One measurement: a server under load or a script alone, in processes that keep to their cores."""

import collections
import contextlib
import json
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fairness
import scaling
import servers
import system_calls
import workloads

CRATE = Path(__file__).resolve().parent / "loadgen"
PROGRAMS = CRATE / "target" / "release"
LOADGEN = PROGRAMS / "loadgen"

DESCRIPTORS = 12_000  # what a process may open, if it is allowed to; 1024 is a common limit
OTHER_DESCRIPTORS = 100  # what it opens beside its connections

# A window is no shorter than this for each connection: all of them get their turns in it.
SECONDS_PER_CONNECTION = 200e-6

# System calls do not become more exact in a longer one.
LONGEST_COUNT = 0.5

ANSWER_LIMIT = 20  # seconds; a server that has not printed its address by then hangs


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
        networked = workloads.is_networked(workload)
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

    def system_calls(self, workload, loop):
        """Return what the measurement is to say of them, from a server under strace that is not measured otherwise."""
        log = Path(self.scratch, "strace.log")
        command = system_calls.traced(loop.server_command(workload, self.scratch), log)
        window = min(self.plan.window, LONGEST_COUNT)
        try:
            with self.serving(command, self.server_core) as (server, address):
                command = self.load_command(workload, address, [server.pid], window)
                load = json.loads(self.output_of(command, self.load_core))
            if not system_calls.wait_for_end(log, server.pid):
                raise Failed("strace did not see the server end")
        except Failed as failure:
            return {"system_calls_error": str(failure)}
        calls = system_calls.count(log, load["began_at"], load["began_at"] + load["seconds"])
        log.unlink()
        if not load["operations"]:
            return {"system_calls_error": "no operation completed under strace"}
        return {"system_calls": system_calls.per_operation(calls, load["operations"])}

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
        with server.stdout, complaints:
            try:
                yield server, self.line_of(server)
                if server.poll() is not None or said(complaints):
                    raise Failed(f"server: ended with status {server.returncode}")
            except Failed as failure:
                # The generator only sees a connection fail; what the server said is the reason.
                raise Failed(said(complaints) or str(failure)) from None
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.scratch, "server.sock"))
                with self.charging(core):
                    self.end(server)

    def end(self, server):
        server.kill()
        server.wait()

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

    def load_command(self, workload, address, server_pids, window=None):
        (family, where), *_ = address.items()
        window = max(window or self.plan.window, SECONDS_PER_CONNECTION * workload.connections)
        numbers = {
            "--connections": workload.connections,
            "--warm-up-ms": round(self.plan.warm_up * 1000),
            "--window-ms": round(1000 * window),
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
