"""The projects whose suites are run, as projects.toml describes them, and the failures that expected.toml explains."""

import fnmatch
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "ecosystem"  # everything that is fetched, unpacked and written

LOOPS = ("asyncio", "velodrome")


@dataclass
class LeftOut:
    tests: list[str]  # pytest's ids, or the beginnings of ids
    why: str


@dataclass
class Project:
    name: str
    version: str
    sha256: str = ""  # of the archive with the sources
    source: str = "sdist"  # or "debian:PACKAGE/SUITE": the upstream archive of Debian's source package
    requires: list[str] = field(default_factory=list)  # what requirements/NAME.txt is made from
    remove: list[str] = field(default_factory=list)  # from the sources: the installed package is tested
    arguments: list[str] = field(default_factory=list)  # for pytest
    environment: dict[str, str] = field(default_factory=dict)
    service: str = ""  # "postgresql" or "redis"
    limit_s: int = 900  # for the whole suite on one loop
    other_loops: list[str] = field(default_factory=list)  # that the suite makes on purpose: lines of choose_loop.py
    left_out: list[LeftOut] = field(default_factory=list)
    note: str = ""
    unavailable: str = ""  # why its suite cannot be run

    def __post_init__(self):
        self.left_out = [LeftOut(**entry) for entry in self.left_out]

    @property
    def requirements(self):
        return HERE / "requirements" / f"{self.name}.txt"


@dataclass
class Expected:
    project: str
    tests: list[str]  # patterns of pytest's ids
    why: str

    def explains(self, project, test):
        # Not fnmatch itself: "[" is part of the ids.
        return project == self.project and any(
            fnmatch.fnmatchcase(test, pattern.replace("[", "[[]")) for pattern in self.tests
        )


def read_projects():
    return [Project(**entry) for entry in tomllib.loads((HERE / "projects.toml").read_text())["project"]]


def read_expected():
    return [Expected(**entry) for entry in tomllib.loads((HERE / "expected.toml").read_text()).get("expected", [])]
