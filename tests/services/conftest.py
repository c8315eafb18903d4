"""Services and their load, each in a process of its own."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support import child_environment, open_fds, resident_bytes, thread_count

PROGRAMS = Path(__file__).parent / "programs"

# The compiled part of multidict, which aiohttp builds on, crashes in a debug build of Python: PyObject_GC_Track()
# visits its objects there before they are complete.
ENVIRONMENT = {"MULTIDICT_NO_EXTENSIONS": "1"} if hasattr(sys, "gettotalrefcount") else {}


def command(program, *args):
    return [sys.executable, str(PROGRAMS / program), *map(str, args)]


def folder_of(certificates):
    """The last argument of each program: with it, the program speaks TLS."""
    return [certificates.folder] if certificates else []


class Service:
    """A server in a process of its own; `port` is where it listens."""

    def __init__(self, name, loop_name, certificates):
        self.errors = tempfile.TemporaryFile("w+")  # not a pipe, which a service could fill
        self.process = subprocess.Popen(
            command("serve.py", name, loop_name, *folder_of(certificates)),
            env=child_environment(**ENVIRONMENT),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line, self.complaints()
        self.port = int(line)

    def complaints(self):
        self.errors.seek(0)
        return self.errors.read()

    def holds(self):
        """Its descriptors and threads, by number."""
        return len(open_fds(self.process.pid)), thread_count(self.process.pid)

    def settled(self):
        """What it holds once it has seen the last client leave."""
        held = self.holds()
        while True:
            # Clients are gone before the server has read so: it needs a moment, and how long is up to the machine.
            subprocess.run([sys.executable, "-c", ""], check=True)
            if (now := self.holds()) == held:
                return held
            held = now

    def resident_bytes(self):
        return resident_bytes(self.process.pid)

    def stop(self):
        """End it in order; it must have nothing to complain about."""
        self.process.communicate(timeout=60)
        complaints = self.complaints()
        assert self.process.returncode == 0, complaints
        assert complaints == ""


@pytest.fixture(scope="session")
def service(loop_name):
    """Starts a service, or finds it running: by name. With certificates it speaks TLS. All must end in order."""
    services = {}

    def find(name, certificates=None):
        key = name, certificates
        if key not in services or services[key].process.poll() is not None:
            services[key] = Service(name, loop_name, certificates)
        return services[key]

    yield find
    try:
        for each in services.values():
            each.stop()
    finally:
        for each in services.values():
            each.process.kill()
            each.process.wait()
            each.errors.close()


def run_program(program, *args):
    """Run it to its end; what it printed, as a number."""
    child = subprocess.run(
        command(program, *args), env=child_environment(**ENVIRONMENT), capture_output=True, text=True, timeout=80
    )
    assert child.returncode == 0, child.stderr
    return int(child.stdout)


def run_side_by_side(*programs):
    """Run several programs at once; what each printed, as a number."""
    children = [
        subprocess.Popen(command(*program), env=child_environment(**ENVIRONMENT), stdout=subprocess.PIPE)
        for program in programs
    ]
    outputs = [child.communicate(timeout=80)[0] for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    return [int(output) for output in outputs]


@pytest.fixture
def load(loop_name):
    """Runs a client of load.py on the same kind of loop; how many answers were right."""
    return lambda client, port, certificates=None: run_program(
        "load.py", client, loop_name, port, *folder_of(certificates)
    )


@pytest.fixture
def loads(loop_name):
    """Runs several clients at once."""
    return lambda clients, port: run_side_by_side(*(("load.py", client, loop_name, port) for client in clients))


@pytest.fixture
def connections():
    """Opens and closes connections; how many answers were right."""
    return lambda kind, port, count, certificates=None: run_program(
        "connections.py", kind, port, count, *folder_of(certificates)
    )
