"""Builds examples/rust-extension for this interpreter, once and before the first test: it may take a minute."""

import asyncio
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
_built = pytest.StashKey[Path]()


def build():
    tag = f"{sys.version_info[0]}.{sys.version_info[1]}{sys.abiflags}"
    target = ROOT / "target" / "extension" / tag
    # Not the sanitizer that `make asan` loads.
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | {
        "PYO3_PYTHON": sys.executable,
        "PYO3_BUILD_EXTENSION_MODULE": "1",  # the interpreter has Python's symbols
        "CARGO_TARGET_DIR": str(target),
        "CARGO_PROFILE_DEV_DEBUG": "line-tables-only",
    }
    command = ["cargo", "build", "--quiet", "--locked", "--package", "rust-extension"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return target / "debug" / "librust_extension.so"


def pytest_collection_finish(session):
    if any("extension" in getattr(item, "fixturenames", ()) for item in session.items):
        session.config.stash[_built] = build()


@pytest.fixture(scope="session")
def extension(request, tmp_path_factory):
    """The example's module."""
    built = request.config.stash[_built]
    # Children import it, too.
    folder = tmp_path_factory.mktemp("extension")
    path = folder / f"rust_extension{sysconfig.get_config_var('EXT_SUFFIX')}"
    path.symlink_to(built)
    spec = importlib.util.spec_from_file_location("rust_extension", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["rust_extension"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def probes(extension):
    return extension.probes


@pytest.fixture(params=["velodrome", "asyncio", "uvloop"])
def any_loop(request):
    """Makes loops: velodrome's, or others for `future_into_py_on_any_loop`."""
    if request.param == "asyncio":
        return asyncio.SelectorEventLoop
    return pytest.importorskip(request.param).new_event_loop


@pytest.fixture(params=["asyncio", "uvloop"])
def other_loop(request):
    """Makes loops that are not velodrome's."""
    if request.param == "asyncio":
        return asyncio.SelectorEventLoop
    return pytest.importorskip(request.param).new_event_loop
