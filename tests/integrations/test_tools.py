"""pytest's plugins, and IPython in a terminal and as Jupyter's kernel."""

import os

import pytest
from conftest import environment
from doc_lines import TOOLS
from jupyter_client.manager import KernelManager

COMMAND = TOOLS.command("pytest -p velodrome.auto")
IPYTHON = TOOLS.command("-m IPython")
CONFIGURATION = TOOLS.program("import velodrome.auto\n")

LOOP_FACTORIES = TOOLS.program("pytest_asyncio_loop_factories")
POLICY = TOOLS.program("event_loop_policy")
BACKEND = TOOLS.program("anyio_backend")

ASYNCIO_TEST = """\
import asyncio
import pytest
from which_loop import which_loop

@pytest.mark.asyncio
async def test_asyncio():
    await asyncio.sleep(0)
    assert which_loop()["loop"] == "velodrome"
"""

ANYIO_TEST = """\
import anyio
import pytest
from which_loop import which_loop

@pytest.mark.anyio
async def test_anyio():
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0)
    assert which_loop()["loop"] == "velodrome"
"""

UNITTEST_TEST = """\
import unittest
from which_loop import which_loop

class Test(unittest.IsolatedAsyncioTestCase):
    async def test_unittest(self):
        assert which_loop()["loop"] == "velodrome"
"""


@pytest.fixture
def tests(folder):
    """Puts these in place of the other programs' tests; anyio's would run on Trio, too, if that is there."""
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    def tests(*sources, conftest=""):
        (folder / "conftest.py").write_text(conftest)
        for number, source in enumerate(sources):
            (folder / f"test_{number}.py").write_text(source)

    return tests


def test_pytest_runs_all_on_velodrome(tests, run):
    tests(ASYNCIO_TEST, ANYIO_TEST, UNITTEST_TEST)
    assert "3 passed" in run(COMMAND)
    assert "3 failed" in run(f"VELODROME=0 {COMMAND}", status=1)


@pytest.mark.parametrize(
    ("source", "conftest"),
    [(ASYNCIO_TEST, LOOP_FACTORIES), (ASYNCIO_TEST, POLICY), (ANYIO_TEST, BACKEND)],
    ids=["pytest-asyncio, loop factories", "pytest-asyncio, policy", "anyio"],
)
def test_a_plugin_takes_its_loops_from_conftest(tests, run, source, conftest):
    tests(source, conftest=conftest)
    assert "1 passed" in run("pytest")
    tests(source)
    assert "1 failed" in run("pytest", status=1)


def test_pytest_asyncio_runs_each_test_on_both_loops(tests, run):
    both = LOOP_FACTORIES.replace('{"', '{"asyncio": asyncio.new_event_loop, "')
    tests(ASYNCIO_TEST, conftest=f"import asyncio\n{both}")
    said = run("pytest", status=1)
    assert "1 failed, 1 passed" in said
    assert "FAILED test_0.py::test_asyncio[asyncio]" in said


# --- IPython --------------------------------------------------------------------------------------

CELLS = [
    "import asyncio\nfrom which_loop import which_loop\nawait asyncio.sleep(0)",
    "which_loop()['loop']",
    "await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2))",
]


@pytest.fixture
def profile(tmp_path):
    """The folder with the configuration of IPython's default profile."""
    profile = tmp_path / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    return profile


def ask_kernel(folder, profile, cells):
    """Start a kernel as Jupyter does, and run cells in it; what each gave."""
    # By Unix sockets: a port that it has found to be free may be another's when the kernel binds it.
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
    manager.start_kernel(
        cwd=folder, env=environment(IPYTHONDIR=str(profile.parent), PYTHONPATH=str(folder), JUPYTER_PLATFORM_DIRS="1")
    )
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        given = []

        def output(message):
            if message["msg_type"] == "execute_result":
                given.append(message["content"]["data"]["text/plain"])

        for cell in cells:
            reply = client.execute_interactive(cell, timeout=60, output_hook=output)
            assert reply["content"]["status"] == "ok", reply["content"]
        return given
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


def test_a_kernel_awaits_on_velodrome(folder, profile):
    (profile / "ipython_kernel_config.py").write_text(CONFIGURATION)
    assert ask_kernel(folder, profile, CELLS) == ["'velodrome'", "[1, 2]"]


def test_a_kernel_without_its_line_awaits_on_asyncio(folder, profile):
    assert ask_kernel(folder, profile, CELLS) == ["'asyncio.unix_events._UnixSelectorEventLoop'", "[1, 2]"]


@pytest.fixture
def in_terminal(run, profile):
    """Runs a cell in IPython; what it printed."""

    def in_terminal(command):
        cell = "import asyncio, which_loop; await asyncio.sleep(0); print(which_loop.which_loop()['loop'])"
        return run(f'{command} --simple-prompt -c "{cell}"', IPYTHONDIR=str(profile.parent), PYTHONPATH=os.curdir)

    return in_terminal


def test_ipython_runs_on_velodrome(in_terminal, profile):
    assert in_terminal(IPYTHON).split() == ["velodrome"]
    assert in_terminal("ipython").split() == ["asyncio.unix_events._UnixSelectorEventLoop"]
    (profile / "ipython_config.py").write_text(CONFIGURATION)
    assert in_terminal("ipython").split() == ["velodrome"]
