"""What tools/check_artifact.py lets through: `python -m unittest discover -s tests/tools`."""

import io
import sys
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import check_artifact  # noqa: E402

METADATA = """\
Metadata-Version: 2.4
Name: velodrome
Summary: A loop
License-Expression: MIT
License-File: LICENSE-MIT
License-File: LICENSE-APACHE
License-File: THIRD-PARTY-LICENSES
Requires-Python: >=3.11
Description-Content-Type: text/markdown
{more}
What it is.
"""
NATIVE = "velodrome/_native.cpython-313-x86_64-linux-gnu.so"
WHEEL = {
    "velodrome/__init__.py": "",
    "velodrome/_native.pyi": "",
    "velodrome/py.typed": "",
    "velodrome/children/sitecustomize.py": "",
    NATIVE: "ELF",
    "velodrome-0.1.0.dist-info/METADATA": METADATA.format(more=""),
    "velodrome-0.1.0.dist-info/RECORD": "",
    **{f"velodrome-0.1.0.dist-info/licenses/{name}": "" for name in check_artifact.LICENCES},
}
SDIST = dict.fromkeys(check_artifact.NEEDED_IN_SDIST, "") | {
    "PKG-INFO": METADATA.format(more=""),
    "crates/velodrome/src/lib.rs": "",
    "python/velodrome/__init__.py": "",
}


class Artifacts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def faults_of_wheel(self, files):
        path = self.folder / "velodrome-0.1.0-cp313-cp313-manylinux_2_17_x86_64.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in files.items():
                wheel.writestr(name, content)
        return list(check_artifact.faults(path))

    def faults_of_sdist(self, files):
        path = self.folder / "velodrome-0.1.0.tar.gz"
        with tarfile.open(path, "w:gz") as sdist:
            for name, content in files.items():
                member = tarfile.TarInfo(f"velodrome-0.1.0/{name}")
                member.size = len(content)
                sdist.addfile(member, io.BytesIO(content.encode()))
        return list(check_artifact.faults(path))

    def test_what_is_right(self):
        self.assertEqual(self.faults_of_wheel(WHEEL), [])
        self.assertEqual(self.faults_of_sdist(SDIST), [])

    def test_too_large(self):
        self.assertRegex(self.faults_of_wheel(WHEEL | {NATIVE: "x" * check_artifact.LARGEST})[0], "too much")

    def test_no_dependencies(self):
        text = METADATA.format(more="Requires-Dist: six\n")
        found = self.faults_of_wheel(WHEEL | {"velodrome-0.1.0.dist-info/METADATA": text})
        self.assertEqual(found, ["it depends on six"])
        self.assertEqual(self.faults_of_sdist(SDIST | {"PKG-INFO": text}), ["it depends on six"])

    def test_licences_are_named(self):
        text = METADATA.format(more="").replace("License-File: LICENSE-MIT\n", "")
        found = self.faults_of_wheel(WHEEL | {"velodrome-0.1.0.dist-info/METADATA": text})
        self.assertEqual(found, ["its metadata does not name LICENSE-MIT"])

    def test_licences_are_there(self):
        for licence in check_artifact.LICENCES:
            files = {name: content for name, content in WHEEL.items() if not name.endswith(f"/{licence}")}
            self.assertEqual(self.faults_of_wheel(files), [f"no {licence}"])

    def test_one_extension_module(self):
        self.assertEqual(self.faults_of_wheel({n: c for n, c in WHEEL.items() if n != NATIVE}), ["0 extension modules"])
        other = NATIVE.replace("313", "314")
        self.assertEqual(self.faults_of_wheel(WHEEL | {other: "ELF"}), ["2 extension modules"])

    def test_no_place_where_it_was_built(self):
        for place in (Path.home() / ".cargo", Path(check_artifact.__file__).parents[1]):
            for name in (NATIVE, "velodrome-0.1.0.dist-info/sboms/velodrome-python.cyclonedx.json"):
                found = self.faults_of_wheel(WHEEL | {name: f"path+file://{place}/src/lib.rs"})
                self.assertEqual(found, [f"{name} names {place}"])

    def test_nothing_strange(self):
        for name in ("velodrome/__pycache__/_loop.cpython-313.pyc", "tests/test_loop.py", "velodrome/notes.txt"):
            self.assertEqual(self.faults_of_wheel(WHEEL | {name: ""}), [f"{name} does not belong there"])
        for name in ("python/velodrome/_native.cpython-313-x86_64-linux-gnu.so", ".venv/pyvenv.cfg", "target/x.rs"):
            self.assertEqual(self.faults_of_sdist(SDIST | {name: ""}), [f"{name} does not belong there"])

    def test_all_that_is_needed(self):
        for name in check_artifact.NEEDED_IN_SDIST:
            self.assertEqual(self.faults_of_sdist({n: c for n, c in SDIST.items() if n != name}), [f"no {name}"])


if __name__ == "__main__":
    unittest.main()
