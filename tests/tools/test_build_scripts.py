"""What an installation says where there can be none: `python -m unittest discover -s tests/tools`."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Systems(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.script = Path(folder.name, "build-script")
        source = ROOT / "crates" / "velodrome" / "build.rs"
        subprocess.run(["rustc", "--edition=2024", "-o", cls.script, source], check=True)

    def said_on(self, system):
        environment = os.environ | {"CARGO_CFG_TARGET_OS": system}
        return subprocess.run([self.script], env=environment, check=True, capture_output=True, text=True).stdout

    def test_linux_is_welcome(self):
        self.assertNotIn("cargo::error", self.said_on("linux"))

    def test_other_systems_are_refused_by_name(self):
        self.assertIn("cargo::error=velodrome runs on Linux, and only there; this is macos\n", self.said_on("macos"))


class Pythons(unittest.TestCase):
    def check_for(self, implementation, version):
        with tempfile.NamedTemporaryFile("w", suffix=".cfg") as config:
            config.write(f"implementation={implementation}\nversion={version}\nshared=true\npointer_width=64\n")
            config.flush()
            return subprocess.run(
                ["cargo", "check", "--quiet", "--package", "velodrome-python"],
                env=os.environ | {"PYO3_CONFIG_FILE": config.name},
                cwd=ROOT,
                capture_output=True,
                text=True,
            )

    def refusal(self, implementation, version):
        child = self.check_for(implementation, version)
        self.assertNotEqual(child.returncode, 0)
        self.assertIn("velodrome runs on CPython 3.11 and newer; this is", child.stderr)
        return child.stderr

    def test_other_pythons_are_refused_by_name(self):
        self.assertIn("this is PyPy, Python 3.11", self.refusal("PyPy", "3.11"))

    def test_an_old_python_is_refused(self):
        self.assertIn("this is CPython, Python 3.10", self.refusal("CPython", "3.10"))


if __name__ == "__main__":
    unittest.main()
