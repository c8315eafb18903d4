"""Whose licences tools/third_party.py collects: `python -m unittest discover -s tests/tools`."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import third_party  # noqa: E402


def package(name, kind="lib", source="registry", **more):
    return {"id": name, "name": name, "version": "1.0", "source": source, "targets": [{"kind": [kind]}], **more}


def needs(**packages):
    """`a={"b": "dev"}`: what each package needs, and what for."""
    return [
        {"id": name, "deps": [{"pkg": pkg, "dep_kinds": [{"kind": kind}]} for pkg, kind in needed.items()]}
        for name, needed in packages.items()
    ]


class Linked(unittest.TestCase):
    def test_what_is_compiled_into_it(self):
        packages = [package("seam", source=None), package("model", source=None), package("macros", "proc-macro")]
        packages += [package(name) for name in ("direct", "below", "quoted", "for-tests", "for-build", "other")]
        resolved = needs(
            seam={"model": None, "macros": None, "for-build": "build"},
            model={"direct": None, "for-tests": "dev"},
            direct={"below": None},
            macros={"quoted": None},
            below={"direct": None},
        )
        found = third_party.linked({"packages": packages, "resolve": {"nodes": resolved}}, "seam")
        self.assertEqual({p["name"] for p in found}, {"direct", "below"})


class Licences(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def crate(self, name, licence, **files):
        folder = self.folder / name
        folder.mkdir()
        for file, text in files.items():
            (folder / file.replace("_", "-")).write_text(text)
        return package(name, license=licence, manifest_path=str(folder / "Cargo.toml"))

    def test_the_same_text_is_there_once(self):
        crates = [
            self.crate("b", "MIT OR Apache-2.0", LICENSE_MIT="Ours\n", LICENSE_APACHE="Apache"),
            self.crate("a", "Apache-2.0/MIT", LICENSE_MIT="Ours"),
            self.crate("c", "MIT", LICENSE="Theirs"),
        ]
        text = third_party.page(crates, "Copyright\n\nPermission is hereby granted to all.\n")
        self.assertIn("\na 1.0, b 1.0\n\nOurs\n", text)
        self.assertIn("\nc 1.0\n\nTheirs\n", text)
        self.assertIn("Rust's standard library", text)
        self.assertNotIn("Apache", text)

    def test_a_licence_that_nobody_has_looked_at(self):
        for licence in ("GPL-3.0", "(MIT OR Apache-2.0) AND Unicode-3.0", None):
            with self.assertRaisesRegex(SystemExit, "under MIT"):
                third_party.licence(package("a", license=licence))

    def test_a_crate_without_one(self):
        with self.assertRaisesRegex(SystemExit, "a 1.0: there is no licence"):
            third_party.licence(self.crate("a", "MIT"))


if __name__ == "__main__":
    unittest.main()
