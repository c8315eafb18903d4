"""Runs a project's suite on one loop, in a process of its own that may hang or die."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field

from prepare import python_of, sources_of
from projects import WORK
from services import SERVICES

TEST_LIMIT_S = 60  # pytest-timeout ends a test after this
SILENCE_LIMIT_S = 150  # and this is for what it cannot end
EXIT_LIMIT_S = 30  # from the last test to the end of the process

OUTCOMES = ("passed", "failed", "error", "skipped")
BAD = ("failed", "error")

# A network with nothing but loopback, where localhost has both of its addresses, and processes that end with the first
# one; in it, not root: PostgreSQL refuses to run as root, and root may read what a test forbids to read.
HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
ENTER = """\
ip link set lo up && mount --bind "$0" /etc/hosts && unshare --user --map-user=1000 --map-group=1000 "$@"
exit $?
"""
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]


@dataclass
class Suite:
    """What came of a suite on one loop."""

    project: str
    version: str
    loop: str
    outcomes: dict[str, str] = field(default_factory=dict)  # test -> passed, skipped, failed, error
    details: dict[str, str] = field(default_factory=dict)  # of the bad ones
    passed_again: list[str] = field(default_factory=list)  # failed, and passed when they ran once more
    loops_made: dict[str, int] = field(default_factory=dict)  # kind and class -> how many
    broken_off: str = ""  # why not all tests ran
    seconds: float = 0.0

    def count(self, outcome):
        return sum(1 for each in self.outcomes.values() if each == outcome)

    def bad(self):
        return [test for test, outcome in self.outcomes.items() if outcome in BAD]

    def loops(self, kind):
        return sum(count for name, count in self.loops_made.items() if name.startswith(f"{kind} "))


def isolated():
    """The beginning of a command that gives it a network and processes of its own, where the system allows that."""
    hosts = WORK / "hosts"
    hosts.write_text(HOSTS)
    command = [*UNSHARE, "sh", "-c", ENTER, hosts]
    works = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if works and works.returncode == 0 else []


class Session:
    """One process of pytest after the other, until every chosen test has had its turn."""

    interrupted = threading.Event()  # every process is to end, and no other to start

    def __init__(self, project, loop):
        self.project, self.loop = project, loop
        self.python = python_of(project)
        self.sources = sources_of(project, loop)
        self.folder = WORK / "runs" / f"{project.name}-{loop}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.events, self.loops_made = self.folder / "events", self.folder / "loops"
        self.variables, self.wrapper = SERVICES[project.service]() if project.service else ({}, [])
        self.suite = Suite(project.name, project.version, loop)
        self.deadline = time.monotonic() + project.limit_s

    def environment(self, home):
        return (
            {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
            | {"HOME": home, "TMPDIR": home, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
            | {"ECOSYSTEM_LOOP": self.loop, "ECOSYSTEM_LOOPS_MADE": str(self.loops_made)}
            | self.variables
            | self.project.environment
        )

    def command(self, *options):
        deselect = [f"--deselect={test}" for entry in self.project.left_out for test in entry.tests]
        return [
            *isolated(),
            *self.wrapper,
            *(self.python, "-m", "pytest", "-p", "report", f"--report-to={self.events}", "-p", "no:cacheprovider"),
            *(f"--timeout={TEST_LIMIT_S}", "--continue-on-collection-errors", "--rootdir=.", "-q"),
            *(*self.project.arguments, *deselect, *options),
        ]

    def list_file(self, name, tests):
        path = self.folder / name
        path.write_text(json.dumps(list(tests)))
        return path

    def run(self):
        started = time.monotonic()
        self.run_all()
        if failed := self.suite.bad():
            self.run_again(failed)
        self.count_loops()
        self.suite.seconds = time.monotonic() - started
        return self.suite

    def run_all(self):
        while True:
            before = len(self.suite.outcomes)
            done = self.list_file("done", self.suite.outcomes)
            trouble = self.run_process(f"--leave-out={done}")
            if not trouble:
                return
            if time.monotonic() > self.deadline or len(self.suite.outcomes) == before:
                self.suite.broken_off = trouble
                return

    def run_again(self, failed):
        """Gives each failed test a second chance, all in one process."""
        first, self.suite.outcomes = self.suite.outcomes, {}
        details, self.suite.details = self.suite.details, {}
        self.deadline = max(self.deadline, time.monotonic() + self.project.limit_s / 3)
        self.run_process(f"--only={self.list_file('failed', failed)}")
        again, self.suite.outcomes = self.suite.outcomes, first
        self.suite.passed_again = [test for test in failed if again.get(test) == "passed"]
        for test in self.suite.passed_again:
            first[test] = "passed"
        self.suite.details = {test: details[test] for test in self.suite.bad()}

    def run_process(self, *options):
        """Follows one process of pytest. Returns why it ended before its tests did, or nothing."""
        self.events.write_text("")
        # The name of a Unix socket may have 108 bytes: a short folder, not one in target/.
        with open(self.folder / "log", "ab") as log, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
            process = subprocess.Popen(
                self.command(*options),
                cwd=self.sources,
                env=self.environment(home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                return self.follow(process)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def follow(self, process):
        current, finished, heard, unfinished = None, None, time.monotonic(), ""
        with open(self.events) as events:
            while True:
                ended = process.poll() is not None
                *lines, unfinished = (unfinished + events.read()).split("\n")
                for line in lines:
                    current, finished, heard = *self.take(json.loads(line), current), time.monotonic()
                if ended:
                    status = process.returncode
                    return self.note_end(current, finished, f"the process ended with status {status}")
                if self.interrupted.is_set():
                    raise KeyboardInterrupt
                silence = time.monotonic() - heard
                if finished is not None and silence > EXIT_LIMIT_S:
                    return self.note_end(current, finished, "the process did not end")
                if silence > SILENCE_LIMIT_S:
                    return self.note_end(current, finished, f"killed after {SILENCE_LIMIT_S} s of silence")
                if time.monotonic() > self.deadline:
                    return self.note_end(current, finished, f"killed at the limit of {self.project.limit_s} s")
                time.sleep(0.1)

    def take(self, event, current):
        """Takes an event in. Returns the test that runs after it, and pytest's exit status once there is one."""
        match event:
            case {"event": "start", "test": test}:
                return test, None
            case {"event": "end", "test": test, "outcome": outcome, "details": details}:
                self.note(test, outcome, details)
                return None, None
            case {"event": "finished", "status": status}:
                return current, status

    def note(self, test, outcome, details):
        self.suite.outcomes[test] = outcome
        if outcome in BAD:
            self.suite.details[test] = details

    def note_end(self, current, finished, why):
        if current is not None:
            self.note(current, "failed", why)
        # 0: all passed; 1: some failed, or could not be collected; 5: none was left to run
        if current is None and finished in (0, 1, 5):
            return None
        return why

    def count_loops(self):
        for line in self.loops_made.read_text().splitlines() if self.loops_made.exists() else ():
            self.suite.loops_made[line] = self.suite.loops_made.get(line, 0) + 1
