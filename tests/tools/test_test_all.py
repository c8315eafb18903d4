"""Several interpreters at once: whose lines are whose, what fails, and what the end says."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TAG = "%d.%d%s" % (*sys.version_info[:2], sys.abiflags)

# What a run of make is to these tests: `make --no-print-directory GOAL PYTHON=...`
MAKE = """
    #!{python}
    import pathlib, signal, sys, time
    goal = sys.argv[2]
    print("===== 3 passed in 1.00s =====")
    print(goal, "SIGINT is ignored" if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else "can be interrupted")
    pathlib.Path(goal).touch()
    while not all(map(pathlib.Path.exists, map(pathlib.Path, {at_once}))):
        time.sleep(0.001)
    sys.exit(goal == {failing!r})
"""


class Jobs(unittest.TestCase):
    def run_script(self, *pythons, at_once=(), failing=None):
        """`make` waits until the goals `at_once` have begun. The script's status, and its lines before the summary and
        from there on."""
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        shutil.copytree(ROOT / "tools", folder / "tools")  # its logs are not those of the run that this test is part of
        make = folder / "make"
        make.write_text(textwrap.dedent(MAKE).strip().format(python=sys.executable, at_once=at_once, failing=failing))
        make.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name not in ("JOBS", "PYTHON")}
        child = subprocess.run(
            [folder / "tools" / "test-all.sh", *pythons],
            env=environment | {"MAKE": str(make)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        lines, summary = child.stdout.split("\n== summary\n")
        return child.returncode, lines.splitlines(), summary.split("\n\n")

    def test_two_run_at_once(self):
        status, lines, _ = self.run_script(sys.executable, at_once=("check", "test-built"))
        self.assertEqual(status, 0)
        self.assertIn("check | check can be interrupted", lines)
        self.assertIn(f"{TAG} | test-built can be interrupted", lines)

    def test_the_end_repeats_what_the_runners_said(self):
        _, _, summary = self.run_script(sys.executable, sys.executable)
        said = "===== 3 passed in 1.00s ====="
        self.assertEqual("\n".join(summary), f"\n-- check\n{said}\n-- Python {TAG}\n{said}\n")

    def test_one_that_fails_is_named_and_fails_all(self):
        status, _, summary = self.run_script(sys.executable, failing="check")
        self.assertEqual(status, 1)
        self.assertIn(f"FAILED: make check, {sys.executable}", summary[0])
        self.assertNotIn("FAILED", summary[1])

    def test_an_interpreter_that_is_not_there_fails_all(self):
        status, lines, summary = self.run_script("no-such-python", sys.executable)
        self.assertEqual(status, 1)
        self.assertIn(f"{TAG} | test-built can be interrupted", lines)
        self.assertIn("NOT TESTED", summary[0])


if __name__ == "__main__":
    unittest.main()
