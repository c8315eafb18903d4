"""Whatever a loop and its objects are called with, Python goes on: exceptions, but no panic, no crash, no hang.

The calls are made by `tests/fuzz/run.py`, in children: a crash is their exit status, and what they leave open goes with
them. `tests/fuzz/tls.py` does the same for what TLS has to keep.
"""

import subprocess
import sys

import pytest
from support import TESTS, child_environment, run_child

FUZZER = TESTS / "fuzz" / "run.py"

# Together some seconds; the fuzzer itself takes any seed, and any number of runs.
SEEDS = 4
RUNS = 16


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_but_exceptions_comes_of_calls_that_nobody_expects(loop_name, tmp_path, seed):
    log = tmp_path / "calls"
    child = subprocess.run(
        [sys.executable, FUZZER, f"--loop={loop_name}", f"--seed={seed}", f"--runs={RUNS}", f"--log={log}"],
        env=child_environment(PYTHONHASHSEED="0"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=80,
    )
    last_calls = log.read_text(errors="replace").splitlines()[-20:]
    assert child.returncode == 0, "\n".join([f"status {child.returncode}", child.stdout, child.stderr, *last_calls])
    assert "panicked" not in child.stderr


@pytest.mark.parametrize("engine", ["libssl", "python"])
def test_random_histories_of_tls_lose_nothing(engine):
    arguments = ["--seed=1", "--histories=40", f"--engine={engine}", "--verbose"]
    child = subprocess.run(
        [sys.executable, TESTS / "fuzz" / "tls.py", *arguments],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert child.stdout.endswith("40 histories, 0 findings\n")
    assert "panicked" not in child.stderr


@pytest.mark.parametrize("error", ["SystemError", "type('PanicException', (BaseException,), {})", "GeneratorExit"])
def test_the_fuzzer_notices_what_is_no_exception(loop_name, tmp_path, error):
    code = f"""
        import os, sys
        sys.path.insert(0, {str(FUZZER.parent)!r})
        os.chdir({str(tmp_path)!r})
        import run

        class Loop(type(new_event_loop())):
            def get_task_factory(self):
                raise {error}("from a broken loop")

        run.loop_factory = lambda name: Loop
        sys.argv[1:] = ["--runs=3"]
        run.main()
    """
    assert "Loop.get_task_factory: " in run_child(loop_name, code, status=1).stdout
