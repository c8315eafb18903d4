"""The workflows run what there is: `python -m unittest discover -s tests/tools`."""

import re
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.name: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}


def make(*arguments):
    command = ["make", "--no-print-directory", "--dry-run", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


class Workflows(unittest.TestCase):
    def test_the_goals_of_make_exist(self):
        goals = {goal for text in WORKFLOWS.values() for goal in re.findall(r"\brun: make ([a-z][\w-]*)", text)}
        self.assertLessEqual({"check", "test-python", "wheels", "crates"}, goals)
        for goal in goals:
            make(goal)

    def test_all_of_make_test_is_done(self):
        """And so what .ci/run does: make test on one Python, its test-python on others."""
        makefile = (ROOT / "Makefile").read_text()
        (test,) = re.findall(r"^test: (.+)", makefile, re.MULTILINE)
        (built,) = re.findall(r"^test-built: (.+)", makefile, re.MULTILINE)
        goals = {*test.split(), *built.split()} - {"test-built"}
        self.assertIn("test-python", goals)
        done = set(re.findall(r"\brun: make ([a-z][\w-]*)", WORKFLOWS["ci.yml"]))
        self.assertLessEqual(goals, done)

    def test_wheels_are_for_the_pythons_of_make_wheels(self):
        _, *usual = make("wheels").split()
        for name in ("ci.yml", "release.yml"):
            (named,) = re.findall(r'WHEELS="([^"]+)"', WORKFLOWS[name])
            self.assertEqual(named.split(), [f"python{version}" for version in usual])
            (set_up,) = re.findall(r"python-version: \|\n((?: +3\.\d+\n)+)", WORKFLOWS[name])
            self.assertEqual(sorted(set_up.split()), usual)

    def test_each_of_them_is_tested(self):
        _, *usual = make("wheels").split()
        (tested,) = re.findall(r"python: \[(.+)\]", WORKFLOWS["ci.yml"])
        self.assertEqual(re.findall(r'"(.+?)"', tested), usual)

    def test_each_python_of_ci_run_is_tested(self):
        (pythons,) = re.findall(r'PYTHONS="default (.+)"', (ROOT / ".ci" / "run").read_text())
        (tested,) = re.findall(r"python: \[(.+)\]", WORKFLOWS["ci.yml"])
        tested = re.findall(r'"(.+?)"', tested) + re.findall(r"make test-python PYTHON=(3\.\S+)", WORKFLOWS["ci.yml"])
        self.assertLessEqual(set(pythons.split()), set(tested))


if __name__ == "__main__":
    unittest.main()
