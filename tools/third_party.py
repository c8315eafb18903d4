"""THIRD-PARTY-LICENSES: the licences of the crates that an extension module has in it, which ask to go with it.

    python tools/third_party.py            write it
    python tools/third_party.py --check    is it that of Cargo.lock?

It is in the repository, and so in the sdist, from which wheels are built as well.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "THIRD-PARTY-LICENSES"
# Of those that the authors offer.
LICENCE = "MIT"
MACHINES = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")

HEADER = """\
These are in the extension module of velodrome as well, each under the licence that follows it. What its authors
offer under several is used under the MIT licence.
"""
# It comes with the compiler, and is as old as that.
STANDARD_LIBRARY = """\
Rust's standard library, and the crates that it consists of. The notices of each are in the file
share/doc/rust/COPYRIGHT-library.html of the toolchain that compiled the module.

Copyright (c) The Rust Project Developers, and the authors of those crates
"""


def linked(metadata, root):
    """The others' packages in what `root` is compiled to: no macros, nothing that is for tests or the build."""
    packages = {package["id"]: package for package in metadata["packages"]}
    needs = {node["id"]: node["deps"] for node in metadata["resolve"]["nodes"]}
    (start,) = (number for number, package in packages.items() if package["name"] == root)
    found, ahead = {}, [start]
    while ahead:
        number = ahead.pop()
        package = packages[number]
        if number in found or any("proc-macro" in target["kind"] for target in package["targets"]):
            continue
        found[number] = package
        ahead += [need["pkg"] for need in needs[number] if any(kind["kind"] is None for kind in need["dep_kinds"])]
    # What has no source is velodrome's own.
    return [package for package in found.values() if package["source"]]


def licence(package):
    """The text that the crate has in its package."""
    name = f"{package['name']} {package['version']}"
    if LICENCE not in re.split(r"\s+OR\s+|/", package["license"] or ""):
        raise SystemExit(f"{name}: is {package['license']} to be had under {LICENCE}?")
    folder = Path(package["manifest_path"]).parent
    for file in (f"LICENSE-{LICENCE}", f"LICENSE-{LICENCE}.txt", f"LICENSE-{LICENCE}.md", "LICENSE"):
        if (folder / file).exists():
            text = (folder / file).read_text(encoding="utf-8")
            return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"
    raise SystemExit(f"{name}: there is no licence in its package")


def page(packages, own):
    """All of it. Crates with the same text share it."""
    by_text = {}
    for (name, version), package in sorted({(p["name"], p["version"]): p for p in packages}.items()):
        by_text.setdefault(licence(package), []).append(f"{name} {version}")
    terms = own[own.index("Permission is hereby granted"):]
    parts = [HEADER, f"{STANDARD_LIBRARY}\n{terms}"]
    parts += [f"{', '.join(names)}\n\n{text}" for text, names in by_text.items()]
    return f"\n{'-' * 80}\n\n".join(parts)


def generate():
    packages = []
    for machine in MACHINES:
        command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", machine]
        found = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        packages += linked(json.loads(found), "velodrome-python")
    return page(packages, (ROOT / "LICENSE-MIT").read_text(encoding="utf-8"))


def main(arguments):
    text = generate()
    if arguments != ["--check"]:
        FILE.write_text(text, encoding="utf-8")
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != text:
        raise SystemExit(f"{FILE.name} is not that of Cargo.lock: python tools/third_party.py writes it")


if __name__ == "__main__":
    main(sys.argv[1:])
