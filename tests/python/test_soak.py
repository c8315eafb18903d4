"""The soak run notices what it is to notice: each kind of leak, made on purpose, ends it with status 1.

`make soak` is the run itself; here it is a short one, and it must find nothing where nothing is.
"""

import subprocess
import sys

import pytest
from support import COUNTS_NATIVE_BYTES, TESTS, child_environment

# What the run says of each.
ONCE = {
    "fd": "descriptors are left open",
    "thread": " after the warm-up: ['MainThread'",
    "child": "a child process is left",
    "task": "a task is left",
    "handle": ".Handle': 1",
    "memory": "memory grew",
    "report": "reported to the exception handler",
    "warning": "ResourceWarning: unclosed",
    "stuck": "is stuck",
}
STEADY = {"object": "objects grow steadily"}
if COUNTS_NATIVE_BYTES:
    STEADY["native"] = "native bytes grow steadily"
if hasattr(sys, "gettotalrefcount"):
    STEADY["reference"] = "references grow steadily"


def soak(loop_name, *options):
    command = [sys.executable, TESTS / "soak" / "run.py", f"--loop={loop_name}", "--seconds=0", "--seed=1", *options]
    return subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=100)


def leaking(loop_name, leaks, rounds):
    """The output of a run that leaks on purpose. What else it does does not matter, but should not take long."""
    options = ["--activity=callbacks", "--round=3", f"--rounds={rounds}", *(f"--leak={leak}" for leak in leaks)]
    child = soak(loop_name, *options, "--rest-limit=0.3", "--activity-limit=0.3")
    assert child.returncode == 1, child.stdout + child.stderr
    return child.stdout


@pytest.fixture(scope="module")
def leaking_once(loop_name):
    return leaking(loop_name, ONCE, 5)


@pytest.fixture(scope="module")
def leaking_steadily(loop_name):
    return leaking(loop_name, STEADY, 10)


def test_a_short_run_finds_nothing(loop_name):
    child = soak(loop_name, "--round=150", "--rounds=6")
    assert child.returncode == 0, child.stdout + child.stderr
    assert child.stdout.endswith("seed 1: 0 findings\n")


@pytest.mark.parametrize("leak", ONCE)
def test_what_is_left_is_noticed(leaking_once, leak):
    assert ONCE[leak] in leaking_once


@pytest.mark.parametrize("leak", STEADY)
def test_what_grows_is_noticed(leaking_steadily, leak):
    assert STEADY[leak] in leaking_steadily


def test_a_loop_that_hangs_is_ended(loop_name):
    child = soak(loop_name, "--activity=callbacks", "--round=3", "--leak=hang", "--hang-limit=1")
    assert child.returncode == 1
    assert "Timeout" in child.stderr and "in leak" in child.stderr
