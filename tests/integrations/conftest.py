"""Runs what the pages say in a folder with the programs that they name, each in processes of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest
from support import child_environment

PROGRAMS = Path(__file__).parent / "programs"
SCRIPTS = Path(sys.executable).parent


def environment(**extra):
    """Where `python` and every script are those of the tests' environment."""
    clean = {name: value for name, value in child_environment().items() if name != "VELODROME"}
    return clean | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"} | extra


@pytest.fixture
def folder(tmp_path):
    """The programs, where they can be imported."""
    return shutil.copytree(PROGRAMS, tmp_path / "programs")


@pytest.fixture
def run(folder):
    """Runs a command of a shell to its end; what it printed."""

    def run(command, status=0, **extra):
        child = subprocess.run(
            ["sh", "-ec", command], cwd=folder, env=environment(**extra), capture_output=True, text=True, timeout=80
        )
        assert child.returncode == status, child.stdout + child.stderr
        return child.stdout

    return run


class Process:
    """A command that runs until it is told to end, and then ends in order."""

    def __init__(self, command, folder, **extra):
        self.output = tempfile.TemporaryFile("w+")  # not a pipe, which nobody reads meanwhile
        self.process = subprocess.Popen(
            ["sh", "-ec", f"exec {command}"],
            cwd=folder,
            env=environment(**extra),
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def said(self):
        self.output.seek(0)
        return self.output.read()

    def until(self, succeeds):
        """Try something again until it does not raise OSError; its result. The process must live until then."""
        while True:
            assert self.process.poll() is None, self.said()
            with contextlib.suppress(OSError):
                return succeeds()
            time.sleep(0.05)

    def end(self, complains=False):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        said = self.said()
        # By its exit status, or by the signal that it raised again once it was done.
        assert self.process.returncode in (0, -signal.SIGTERM), said
        assert complains or "Traceback" not in said, said

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.output.close()


@contextlib.contextmanager
def starting(folder, complains=False):
    """Gives a function that starts commands. Each has to end in order, the last one first; some say how they fare."""
    processes = []

    def start(command, **extra):
        processes.append(Process(command, folder, **extra))
        return processes[-1]

    try:
        yield start
        for process in reversed(processes):
            process.end(complains)
    finally:
        for process in processes:
            process.kill()


@pytest.fixture
def start(folder):
    with starting(folder) as start:
        yield start


@pytest.fixture
def port():
    """A port that is kept for the test: the socket does not listen, and others may bind beside it, as servers do."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def post(port, body):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", body.encode(), timeout=30) as response:
        return json.load(response)


@pytest.fixture
def answers(start, port):
    """Starts a server and asks it a few times; what it answered first. `{port}` in the command is where it listens."""

    def answers(command, **extra):
        server = start(command.format(port=port), **extra)
        first = server.until(lambda: post(port, "0"))
        for number in range(1, 20):
            body = f"{number}" * 1000 * number
            answer = post(port, body)
            assert answer["body"] == body
            assert answer["loop"] == first["loop"]
        return first | {"parent": server.process.pid}

    return answers
