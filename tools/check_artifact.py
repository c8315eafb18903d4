"""Is this a wheel or an sdist to publish? `python tools/check_artifact.py FILE...`; what is wrong is printed.

What `auditwheel` and pip see by themselves (symbols, tags, whether it installs) is theirs to see: tools/wheels.sh.
"""

import re
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

LARGEST = 2_000_000
# Where it was built is nobody's concern, and would make each build different. tools/wheel.sh says /velodrome instead.
PLACES = {Path.home() / ".cargo", Path(__file__).resolve().parents[1]} - {Path("/velodrome")}
# velodrome's own, and those of the crates that are linked into it.
LICENCES = {"LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY-LICENSES"}

IN_WHEEL = (
    r"velodrome/(\w+\.pyi?|py\.typed|children/sitecustomize\.py)",
    r"velodrome/_native\.cpython-3\d+t?-[\w-]+\.so",
    r"velodrome-[^/]+\.dist-info/(METADATA|WHEEL|RECORD|licenses/[A-Z-]+|sboms/.+\.cyclonedx\.json)",
)
IN_SDIST = (
    r"(PKG-INFO|README\.md|CHANGELOG\.md|LICENSE-\w+|THIRD-PARTY-LICENSES|pyproject\.toml|Cargo\.(toml|lock))",
    r"python/velodrome/(\w+\.pyi?|py\.typed|children/sitecustomize\.py)",
    r"crates/[\w-]+/(Cargo\.toml|build\.rs|README\.md|LICENSE-\w+|(src|tests|examples|benches)/.+\.(rs|py))",
)
NEEDED_IN_SDIST = {
    "Cargo.lock",
    "Cargo.toml",
    "pyproject.toml",
    "README.md",
    *LICENCES,
    *(f"crates/{crate}/Cargo.toml" for crate in ("velodrome", "velodrome-abi", "velodrome-python")),
}


def faults(path):
    """What is wrong with it, a sentence each."""
    path = Path(path)
    if path.stat().st_size >= LARGEST:
        yield f"{path.stat().st_size} bytes, {LARGEST} is too much"
    if path.suffix == ".whl":
        yield from _faults_of_wheel(path)
    else:
        yield from _faults_of_sdist(path)


def _faults_of_wheel(path):
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        yield from _strangers(names, IN_WHEEL)
        native = [name for name in names if name.endswith(".so")]
        if len(native) != 1:
            yield f"{len(native)} extension modules"
        # For type checkers; for the Pythons that `python -m velodrome --children` starts.
        for name in ("py.typed", "children/sitecustomize.py"):
            if f"velodrome/{name}" not in names:
                yield f"no {name}"
        for name in names:
            content = wheel.read(name)
            for place in PLACES:
                if re.search(rb"(?<![\w.-])" + re.escape(f"{place}/".encode()), content):
                    yield f"{name} names {place}"
        for licence in sorted(LICENCES):
            if not any(name.endswith(f".dist-info/licenses/{licence}") for name in names):
                yield f"no {licence}"
        metadata = [name for name in names if name.endswith(".dist-info/METADATA")]
        if len(metadata) != 1:
            yield "no metadata"
        for name in metadata:
            yield from _faults_of_metadata(wheel.read(name))


def _faults_of_sdist(path):
    with tarfile.open(path) as sdist:
        folder = path.name.removesuffix(".tar.gz")
        members = {member.name.removeprefix(f"{folder}/"): member for member in sdist.getmembers() if member.isfile()}
        yield from _strangers(members, IN_SDIST)
        for name in sorted(NEEDED_IN_SDIST - set(members)):
            yield f"no {name}"
        if "PKG-INFO" in members:
            yield from _faults_of_metadata(sdist.extractfile(members["PKG-INFO"]).read())
        else:
            yield "no metadata"


def _strangers(names, expected):
    for name in names:
        if not any(re.fullmatch(pattern, name) for pattern in expected):
            yield f"{name} does not belong there"


def _faults_of_metadata(text):
    metadata = BytesParser().parsebytes(text)
    for dependency in metadata.get_all("Requires-Dist", []):
        yield f"it depends on {dependency}"
    for name in sorted(LICENCES - set(metadata.get_all("License-File", []))):
        yield f"its metadata does not name {name}"
    for name in ("Summary", "License-Expression", "Requires-Python", "Description-Content-Type"):
        if name not in metadata:
            yield f"its metadata has no {name}"
    if not metadata.get_payload().strip():
        yield "its metadata has no description"


def main(paths):
    wrong = False
    for path in paths:
        for fault in faults(path):
            print(f"{Path(path).name}: {fault}", file=sys.stderr)
            wrong = True
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
