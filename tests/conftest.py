"""Which event loop the tests run on.

Tests that ask for `loop_name` run once per loop: those of `contract/` on stock asyncio and on velodrome, all
others on velodrome. `--loop NAME` (again for more), or VELODROME_TEST_LOOPS=NAME,NAME, chooses others.
"""

import gc
import os
import signal

import pytest
from certificates import Certificates, has_openssl
from support import loop_factory

LOOPS = ("asyncio", "velodrome", "uvloop")


def pytest_addoption(parser):
    parser.addoption("--loop", action="append", choices=LOOPS, help="run on this loop only; more than one may be given")


def pytest_configure(config):
    # A shell ignores SIGINT for what it runs in the background; many tests are about what it does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        "differs(reason, when=True, run=True): asyncio itself does not keep this promise (see docs/differences.md)",
    )
    # An exception that nobody could catch, and a socket, loop or transport that nobody closed, fail the test.
    for category in ("ResourceWarning", "RuntimeWarning", "pytest.PytestUnraisableExceptionWarning"):
        config.addinivalue_line("filterwarnings", f"error::{category}")
    config.addinivalue_line("filterwarnings", "error::pytest.PytestUnhandledThreadExceptionWarning")


def chosen_loops(config, path):
    names = config.getoption("loop") or [n for n in os.environ.get("VELODROME_TEST_LOOPS", "").split(",") if n]
    return names or (["asyncio", "velodrome"] if "contract" in path.parts else ["velodrome"])


def pytest_generate_tests(metafunc):
    if "loop_name" in metafunc.fixturenames:
        names = chosen_loops(metafunc.config, metafunc.definition.path)
        metafunc.parametrize("loop_name", names, scope="session")


def pytest_collection_modifyitems(config, items):
    for item in items:
        # A limit for hangs only; no test comes near it.
        if not config.getoption("timeout") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(90))
        loop_name = getattr(item, "callspec", None) and item.callspec.params.get("loop_name")
        for mark in item.iter_markers("differs"):
            if loop_name != "velodrome" and mark.kwargs.get("when", True):
                # Not strict: a patch release of CPython may bring the promise back.
                run = mark.kwargs.get("run", True)
                item.add_marker(pytest.mark.xfail(reason=mark.args[0], strict=False, run=run))


@pytest.fixture(scope="module", autouse=True)
def collector_looks_past_pytest():
    """Thousands of tests call the garbage collector. What pytest holds of all tests, and of those that have run, need
    not be looked through each time: that took a third of a second with a debug build."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def new_loop(loop_name):
    """Makes loops of the kind under test."""
    return loop_factory(loop_name)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    if not has_openssl():
        pytest.skip("no openssl program to make certificates with")
    return Certificates(tmp_path_factory.mktemp("certificates"))
