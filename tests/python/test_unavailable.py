"""Where velodrome cannot be imported, the error says in a sentence why, and what to do."""

import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import velodrome
from support import run_child

PACKAGE = Path(velodrome.__file__).parent
NATIVE = Path(velodrome._native.__file__)
SOABI = sysconfig.get_config_var("SOABI")

IMPORT = """
import sys
sys.path.insert(0, sys.argv[1])
try:
    import velodrome
except ImportError as error:
    print(error.name, error, sep="\\n")
else:
    print("imported", velodrome.__file__)
"""


@pytest.fixture
def package(tmp_path):
    """A copy of the package's Python files, without an extension module."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "velodrome", ignore=shutil.ignore_patterns("*.so", "__pycache__")))


def refusal(package):
    name, message = run_child("asyncio", IMPORT, package.parent).stdout.splitlines()
    assert name == "velodrome._native"
    return message


def test_the_copy_works_with_its_extension_module(package):
    shutil.copy(NATIVE, package)
    assert run_child("asyncio", IMPORT, package.parent).stdout == f"imported {package / '__init__.py'}\n"


def test_nothing_is_built(package):
    message = refusal(package)
    assert str(package) in message and "source tree" in message and "make build" in message


def test_it_was_built_for_another_python(package):
    (package / "_native.cpython-39-x86_64-linux-gnu.so").touch()
    message = refusal(package)
    assert f"no extension module for this Python ({SOABI})" in message
    assert "only for cpython-39-x86_64-linux-gnu;" in message
    assert f"{sys.executable} -m pip install --force-reinstall velodrome" in message


def test_it_does_not_load(package):
    """As one does that was built for another processor, or for a newer C library."""
    (package / NATIVE.name).write_bytes(b"this is no shared library")
    message = refusal(package)
    assert "does not load on this machine" in message and "--no-binary velodrome" in message
    assert NATIVE.name in message  # what the system says of it


@pytest.mark.parametrize("use", ["from ._native import gone", "from . import _native\n_native.gone"])
def test_it_is_from_another_version(package, use):
    shutil.copy(NATIVE, package)
    loop = package / "_loop.py"
    loop.write_text(f"{loop.read_text()}\n{use}\n")
    message = refusal(package)
    assert str(package / NATIVE.name) in message and "another version" in message and "gone" in message


@pytest.mark.parametrize("error", ["ImportError('ours')", "AttributeError('ours')"])
def test_other_errors_are_not_explained_away(package, error):
    shutil.copy(NATIVE, package)
    (package / "_loop.py").write_text(f"raise {error}\n")
    code = IMPORT.replace("ImportError as error", "Exception as error").replace("error.name, ", "")
    child = run_child("asyncio", code, package.parent)
    assert child.stdout == "ours\n"


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ("sys.platform = 'darwin'", "runs on Linux; this is 'darwin'"),
        ("sys.implementation.name = 'pypy'", r"CPython 3\.11 and newer; this is pypy, Python 3\.\d+"),
        ("sys.version_info = (3, 9, 2, 'final', 0)", r"CPython 3\.11 and newer; this is cpython, Python 3\.9"),
    ],
)
def test_no_such_platform_or_python(lie, says):
    code = f"""
    import asyncio, sys
    {lie}
    try:
        import velodrome
    except ImportError as error:
        print(error)
    """
    assert re.search(says, run_child("asyncio", code).stdout)
