"""What makes velodrome asyncio's default: `python -m velodrome`, its children, velodrome.auto, the environment."""

import sys

import pytest
from doc_lines import SERVERS

CLASS = "<class 'velodrome._loop.Loop'>"
STOCK = "<class 'asyncio.unix_events._UnixSelectorEventLoop'>"

AUTO = SERVERS.program("import velodrome.auto")
PLAIN = AUTO.replace("import velodrome.auto\n", "")

RUN = SERVERS.command("python -m velodrome program.py")
WITH_CHILDREN = SERVERS.command("--children program.py")
SWITCHED_OFF = SERVERS.command("VELODROME=0")
ENVIRONMENT = SERVERS.command("--environment")

# A process that was started, and those of each way that multiprocessing has.
PARENT = """\
import asyncio, multiprocessing, subprocess, sys

def loop_class():
    loop = asyncio.new_event_loop()
    loop.close()
    return str(type(loop))

if __name__ == "__main__":
    print(loop_class())
    code = "import asyncio; loop = asyncio.new_event_loop(); loop.close(); print(type(loop))"
    print(subprocess.run([sys.executable, *sys.argv[1:], "-c", code], capture_output=True, text=True).stdout.strip())
    for method in "fork", "spawn", "forkserver":
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(pool.apply(loop_class))
"""


@pytest.fixture
def lines(run, folder):
    """Runs a program by a command; the lines it printed."""

    def lines(program, command, **extra):
        (folder / "program.py").write_text(program)
        return run(command, **extra).splitlines()

    return lines


def test_the_import_makes_it_the_default(lines):
    assert lines(AUTO, "python program.py") == [CLASS]


def test_the_environment_turns_the_import_off(lines):
    assert lines(AUTO, SWITCHED_OFF) == [STOCK]


def test_the_command_makes_it_the_default(lines):
    assert lines(PLAIN, RUN) == [CLASS]
    assert lines(PLAIN, RUN.replace(" -m velodrome", "")) == [STOCK]


def test_children_have_it_only_if_asked_for(lines):
    assert lines(PARENT, RUN) == [CLASS, STOCK, CLASS, STOCK, STOCK]  # what is forked is a copy
    assert lines(PARENT, WITH_CHILDREN) == [CLASS] * 5


def test_a_child_that_ignores_the_environment_is_left_alone(lines):
    assert lines(PARENT, f"{WITH_CHILDREN} -I")[1] == STOCK


def test_the_environment_of_a_shell_is_enough(lines):
    assert lines(PARENT, f"{ENVIRONMENT}; python program.py") == [CLASS] * 5
    assert lines(PLAIN, f"{ENVIRONMENT}; {SWITCHED_OFF}") == [STOCK]


def test_the_environment_keeps_the_path_that_was_there(run, folder):
    print_path = """python -c 'import os; print(os.environ["PYTHONPATH"])'"""
    once = run(f"{ENVIRONMENT}; {print_path}", PYTHONPATH="/somewhere/my folder:").strip()
    assert once.endswith("/children:/somewhere/my folder:")
    assert run(f"{ENVIRONMENT}; {ENVIRONMENT}; {print_path}", PYTHONPATH="/somewhere/my folder:").strip() == once


def test_the_variable_alone_does_nothing(lines):
    assert lines(PLAIN, "python program.py", VELODROME="1") == [STOCK]


def test_asyncio_and_velodrome_wait_until_they_are_imported(lines):
    program = "import sys; print('asyncio' in sys.modules, 'velodrome' in sys.modules)"
    assert lines(program, f"{ENVIRONMENT}; python program.py") == ["False False"]


def test_the_sitecustomize_that_was_there_is_imported(lines, folder):
    (folder / "sitecustomize.py").write_text("import asyncio\nasyncio.was_here = True\n")
    said = lines(f"{PLAIN}\nprint(asyncio.was_here)", f"{ENVIRONMENT}; python program.py", PYTHONPATH=str(folder))
    assert said == [CLASS, "True"]


def test_a_sitecustomize_may_run_a_loop(lines, folder):
    """With threads, descriptors and a pipe, before the interpreter has begun."""
    (folder / "sitecustomize.py").write_text(
        "import asyncio\n"
        "async def main():\n"
        "    await asyncio.to_thread(len, '')\n"
        "    child = await asyncio.create_subprocess_exec('echo', 'here', stdout=asyncio.subprocess.PIPE)\n"
        "    asyncio.was, _ = await child.communicate()\n"
        "    assert (await child.wait()) == 0\n"
        "asyncio.run(main())\n"
    )
    said = lines(f"{PLAIN}\nprint(asyncio.was)", f"{ENVIRONMENT}; python program.py", PYTHONPATH=str(folder))
    assert said == [CLASS, r"b'here\n'"]


def test_a_sitecustomize_that_fails_says_so(lines, folder):
    (folder / "sitecustomize.py").write_text("import missing_module\n")
    said = lines(PLAIN, f"{ENVIRONMENT}; python program.py 2>&1", PYTHONPATH=str(folder))
    assert "No module named 'missing_module'" in "\n".join(said)
    assert said[-1] == CLASS


def test_a_python_without_velodrome_is_left_alone(lines, folder):
    """As if it were another environment's: the package cannot be imported."""
    (folder / "velodrome").mkdir()
    (folder / "velodrome" / "__init__.py").write_text("raise ImportError('of another version')\n")
    environment = f"cd /; {ENVIRONMENT}; cd {folder}"
    assert lines(PLAIN, f"{environment}; python program.py") == [STOCK]


def test_an_import_that_comes_too_late_warns(lines):
    program = """\
import asyncio, warnings

async def main():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import velodrome.auto
    (warning,) = caught
    print(warning.category.__name__, warning.filename.endswith("program.py"))

asyncio.run(main())
print(type(asyncio.Runner().get_loop()))
"""
    assert lines(program, f"{sys.executable} -W ignore program.py") == ["RuntimeWarning True", CLASS]
