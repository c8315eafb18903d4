"""What tools/profdata.sh chooses: `python -m unittest discover -s tests/tools`.

The compiler and the candidates are made up. A profile of this compiler is a file with a number, its format; it reads
what is merged into format 22 or older.
"""

import subprocess
import tempfile
import unittest
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "profdata.sh"

# Its program writes format 22.
RUSTC = """#!/bin/sh
case $1 in
--print) echo "$SYSROOT" ;;
-vV) printf 'host: some-host\\nLLVM version: 22.1.2\\n' ;;
-Cprofile-generate) printf '#!/bin/sh\\necho 22 >"$LLVM_PROFILE_FILE"\\n' >"$3"; chmod +x "$3" ;;
-Cprofile-use=*) [ "$(cat "${1#*=}")" -le 22 ] || { echo "error: profile is too new" >&2; exit 1; } ;;
*) exit 2 ;;
esac
"""

# merge --output MERGED RAW: reads formats up to NEWEST, writes WRITES.
PROFDATA = """#!/bin/sh
[ "$1 $2" = "merge --output" ] || exit 2
[ "$(cat "$4")" -le {newest} ] || {{ echo "error: unsupported format" >&2; exit 1; }}
echo {writes} >"$3"
"""


class Profdata(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "path")
        self.sysroot = Path(folder.name, "sysroot")
        self.components = self.sysroot / "lib" / "rustlib" / "some-host" / "bin"
        self.make(self.path / "rustc", RUSTC)
        # The script's own tools, and none of this machine's llvm-profdata.
        for tool in ("bash", "sh", "cat", "chmod", "grep", "mktemp", "rm", "sed", "sort"):
            found = subprocess.run(["bash", "-c", f"type -P {tool}"], capture_output=True, text=True, check=True)
            (self.path / tool).symlink_to(found.stdout.strip())

    def make(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def candidate(self, name, newest=22, writes=22, folder=None):
        return self.make((folder or self.path) / name, PROFDATA.format(newest=newest, writes=writes))

    def run_script(self, **variables):
        environment = {"PATH": str(self.path), "SYSROOT": str(self.sysroot), "TMPDIR": str(self.path.parent)}
        return subprocess.run([SCRIPT], env={**environment, **variables}, capture_output=True, text=True)

    def assert_chosen(self, expected, **variables):
        answer = self.run_script(**variables)
        self.assertEqual((answer.stdout, answer.stderr, answer.returncode), (expected + "\n", "", 0))

    def test_rustups_own_comes_first(self):
        self.candidate("llvm-profdata")
        self.assert_chosen(self.candidate("llvm-profdata", folder=self.components))

    def test_the_plain_name_comes_before_numbered_ones(self):
        self.candidate("llvm-profdata-22")
        self.assert_chosen(self.candidate("llvm-profdata"))

    def test_the_newest_number_comes_first(self):
        self.candidate("llvm-profdata-9")
        self.candidate("llvm-profdata-19")
        self.assert_chosen(self.candidate("llvm-profdata-21"))
        self.candidate("llvm-profdata-100")
        self.assert_chosen(str(self.path / "llvm-profdata-100"))

    def test_one_that_cannot_read_the_profile_is_passed_over(self):
        self.candidate("llvm-profdata", newest=14)
        self.candidate("llvm-profdata-21", newest=21)
        self.assert_chosen(self.candidate("llvm-profdata-19"))

    def test_one_whose_output_the_compiler_cannot_read_is_passed_over(self):
        self.candidate("llvm-profdata-23", newest=23, writes=23)
        self.assert_chosen(self.candidate("llvm-profdata-22"))

    def test_a_named_one_is_the_only_candidate(self):
        self.candidate("llvm-profdata")
        mine = self.candidate("mine")
        self.assert_chosen(mine, LLVM_PROFDATA=mine)
        self.assert_chosen(mine, LLVM_PROFDATA="mine")
        old = self.candidate("old", newest=14)
        answer = self.run_script(LLVM_PROFDATA=old)
        self.assertEqual((answer.stdout, answer.returncode), ("", 1))
        self.assertIn(f"{old} cannot be used", answer.stderr)

    def test_without_any_it_says_what_was_tried_and_what_to_install(self):
        old = self.candidate("llvm-profdata-14", newest=14)
        answer = self.run_script()
        self.assertEqual((answer.stdout, answer.returncode), ("", 1))
        self.assertIn(f"{old}\n      error: unsupported format", answer.stderr)
        self.assertIn("rustup component add llvm-tools", answer.stderr)
        self.assertIn("apt-get install llvm-22", answer.stderr)
        self.assertNotIn("nothing to try", answer.stderr)

    def test_nothing_is_left_behind(self):
        before = set(self.path.parent.iterdir())
        self.candidate("llvm-profdata")
        self.run_script()
        self.assertEqual(set(self.path.parent.iterdir()), before)


if __name__ == "__main__":
    unittest.main()
