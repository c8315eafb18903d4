"""`python -m velodrome` runs a program as `python` does, only on velodrome's loop."""

import os
import platform
import re
import signal
import subprocess
import sys

import pytest
import velodrome
from support import child_environment, run_child

PROGRAM = """\
import asyncio, sys, os, __main__

answer = 42

async def main():
    return type(asyncio.get_running_loop()).__module__.split(".")[0]

print(asyncio.run(main()))
print(sys.argv[1:])
print(__name__, __main__.answer)
print(os.path.realpath(sys.path[0] or os.getcwd()))
"""


def python(*args, cwd, velodrome=True, **options):
    module = ["-m", "velodrome"] if velodrome else []
    return subprocess.run(
        [sys.executable, *module, *args],
        env=child_environment(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def both(*args, cwd):
    """What velodrome makes of these arguments; it must end as Python itself does, but for the loop's name."""
    ours = python(*args, cwd=cwd)
    theirs = python(*args, cwd=cwd, velodrome=False)
    assert ours.returncode == theirs.returncode, ours.stderr
    assert ours.stdout.replace("velodrome", "asyncio") == theirs.stdout
    return ours


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(PROGRAM)
    (package / "module.py").write_text(PROGRAM + "print(__package__, __spec__.name)\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(PROGRAM)
    return tmp_path


PROGRAMS = [["program.py"], ["folder"], ["-m", "program"], ["-m", "package"], ["-m", "package.module"], ["-c", PROGRAM]]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: " ".join(program)[:20].split("\n")[0])
def test_a_program_runs_on_velodrome_with_its_arguments(folder, program):
    child = both(*program, "one", "-m", "--two", "three", cwd=folder)
    lines = child.stdout.splitlines()
    assert lines[:3] == ["velodrome", "['one', '-m', '--two', 'three']", "__main__ 42"]


def test_argv_zero_is_what_python_makes_it(folder):
    code = "import os, sys; print(os.path.realpath(sys.argv[0]) if os.path.exists(sys.argv[0]) else sys.argv[0])"
    (folder / "argv.py").write_text(code)
    both("argv.py", cwd=folder)
    both("-c", code, "x", cwd=folder)
    both("-m", "argv", "x", cwd=folder)


def test_a_script_knows_its_file(folder):
    (folder / "file.py").write_text("import os; print(os.path.realpath(__file__))")
    assert both("file.py", cwd=folder).stdout.strip() == os.path.realpath(folder / "file.py")


def test_a_script_imports_its_neighbours(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "script.py").write_text("import neighbour")
    (folder / "sub" / "neighbour.py").write_text("print('neighbour')")
    assert both("sub/script.py", cwd=folder).stdout == "neighbour\n"


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit",
        "raise SystemExit(0)",
        "raise SystemExit(7)",
        "raise SystemExit('message')",
        "import sys; sys.exit(300)",
        "1 / 0",
        "import asyncio\nasync def main(): raise SystemExit(5)\nasyncio.run(main())",
        "import asyncio\nasync def main(): 1 / 0\nasyncio.run(main())",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "raise KeyboardInterrupt",
        "this is no Python",
    ],
)
def test_the_exit_status_is_that_of_the_program(folder, code):
    (folder / "ending.py").write_text(code)
    both("ending.py", cwd=folder)
    both("-c", code, cwd=folder)
    if code != "this is no Python":  # runpy compiles a module before it is one
        both("-m", "ending", cwd=folder)


def test_a_message_of_system_exit_goes_to_stderr(folder):
    assert python("-c", "raise SystemExit('message')", cwd=folder).stderr == "message\n"


@pytest.mark.parametrize("program", [["failing.py"], ["-m", "failing"]], ids=["script", "module"])
def test_a_traceback_ends_where_the_program_failed(folder, program):
    (folder / "failing.py").write_text("def inner():\n    1 / 0\n\ninner()\n")
    ours = python(*program, cwd=folder).stderr
    assert ours.startswith("Traceback (most recent call last):")
    assert re.search(r'File ".*failing.py", line 2, in inner\n    1 / 0', ours)
    assert ours.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_a_file_that_is_not_there_is_an_error(folder):
    child = python("missing.py", cwd=folder)
    assert child.returncode != 0
    assert "missing.py" in child.stderr


def test_a_module_that_is_not_there_is_an_error(folder):
    child = python("-m", "missing", cwd=folder)
    assert child.returncode == 1
    assert "No module named missing" in child.stderr


def test_no_arguments_explain_the_usage(folder):
    child = python(cwd=folder)
    assert child.returncode == 2
    assert "usage: python -m velodrome" in child.stderr
    assert child.stdout == ""


@pytest.mark.parametrize("option", ["-m", "-c"])
def test_an_option_without_its_argument_is_an_error(folder, option):
    child = python(option, cwd=folder)
    assert child.returncode == 2
    assert option in child.stderr


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_explains_the_usage(folder, option):
    child = python(option, cwd=folder)
    assert child.returncode == 0
    assert "usage: python -m velodrome" in child.stdout


def info(folder):
    child = python("--info", cwd=folder)
    assert (child.returncode, child.stderr) == (0, "")
    return dict(line.split(": ", 1) for line in child.stdout.splitlines())


def test_info_says_what_runs(folder):
    facts = info(folder)
    assert list(facts) == ["velodrome", "extension", "python", "system", "backend", "tls", "kernel"]
    assert facts["velodrome"] == velodrome.__version__
    assert facts["extension"] == velodrome._native.__file__
    assert facts["python"] == f"CPython {platform.python_version()}, {sys.executable}"
    assert facts["system"].startswith(f"Linux {platform.release()} {platform.machine()}, ")
    assert facts["backend"] == "epoll"


def test_info_tells_what_the_kernel_has(folder):
    features = dict(feature.split() for feature in info(folder)["kernel"].split(", "))
    assert list(features) == ["epoll", "eventfd", "pidfd", "recvmmsg", "sendmmsg"]
    # Nothing else can be waited with, or run this test.
    assert features["epoll"] == features["recvmmsg"] == "yes"
    assert features["pidfd"] == ("yes" if can_open_pidfd() else "no")


def can_open_pidfd():
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def test_info_sees_what_is_missing():
    code = """
    import os
    def refuse(*args):
        raise PermissionError
    os.pidfd_open = refuse
    del os.eventfd
    from velodrome import _info
    print(dict(_info._facts())["kernel"])
    """
    assert run_child("asyncio", code).stdout.startswith("epoll yes, eventfd no, pidfd no, ")


def test_info_names_the_engine_of_tls(folder):
    ssl = pytest.importorskip("ssl")
    engine = {"libssl": "libssl, called directly", "ssl": "ssl module"}[velodrome._native.tls_engine()]
    asked = os.environ.get("VELODROME_TLS") == "python"
    expected = "ssl module, by VELODROME_TLS=python" if asked else engine
    assert info(folder)["tls"] == f"{expected}; {ssl.OPENSSL_VERSION}"


def test_info_tells_that_the_ssl_module_was_asked_for():
    code = "from velodrome import _info; print(_info._tls_engine())"
    child = run_child("asyncio", code, env={"VELODROME_TLS": "python"})
    assert child.stdout.startswith("ssl module, by VELODROME_TLS=python; ")


def test_an_unknown_option_is_an_error(folder):
    child = python("--nonsense", cwd=folder)
    assert child.returncode == 2
    assert "--nonsense" in child.stderr


WAYS = """\
import asyncio, sys, threading, warnings
warnings.simplefilter("error")
def show(loop):
    print(type(loop).__module__.split(".")[0], type(loop).__name__)
async def running():
    show(asyncio.get_running_loop())

asyncio.run(running())
with asyncio.Runner() as runner:
    runner.run(running())
loop = asyncio.new_event_loop()
show(loop)
asyncio.set_event_loop(loop)
show(asyncio.get_event_loop())
loop.run_until_complete(running())
loop.close()
thread = threading.Thread(target=lambda: asyncio.run(running()))
thread.start()
thread.join()
from asyncio import new_event_loop
loop = new_event_loop()
show(loop)
loop.close()
"""


def test_every_way_to_make_a_loop_makes_velodromes(folder):
    child = python("-c", WAYS, cwd=folder)
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines() == ["velodrome Loop"] * 7


def test_debug_mode_of_python_reaches_the_loop(folder):
    code = "import asyncio\nasync def main(): print(asyncio.get_running_loop().get_debug())\nasyncio.run(main())"
    child = subprocess.run(
        [sys.executable, "-X", "dev", "-m", "velodrome", "-c", code],
        env=child_environment(),
        capture_output=True,
        text=True,
    )
    assert child.stdout == "True\n", child.stderr


def test_what_runs_at_exit_still_has_its_globals(folder):
    (folder / "atexit_user.py").write_text("import atexit\nword = 'goodbye'\natexit.register(lambda: print(word))\n")
    assert both("atexit_user.py", cwd=folder).stdout == "goodbye\n"


def test_a_class_of_the_program_can_be_pickled(folder):
    (folder / "pickler.py").write_text(
        "import pickle\nclass Thing: pass\nprint(type(pickle.loads(pickle.dumps(Thing()))) is Thing)\n"
    )
    assert both("pickler.py", cwd=folder).stdout == "True\n"


def test_ctrl_c_ends_the_program_as_it_ends_python(folder):
    main = "async def main():\n    print('ready', flush=True)\n    await asyncio.Event().wait()\n"
    code = f"import asyncio\n{main}asyncio.run(main())"
    statuses = []
    for module in (["-m", "velodrome"], []):
        with subprocess.Popen(
            [sys.executable, *module, "-c", code],
            env=child_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout.readline() == "ready\n"
            child.send_signal(signal.SIGINT)
            _, stderr = child.communicate(timeout=60)
        assert stderr.splitlines()[-1] == "KeyboardInterrupt"
        statuses.append(child.returncode)
    assert statuses[0] == statuses[1]


def test_a_link_to_a_script_finds_what_is_beside_the_script(folder):
    (folder / "folder" / "helper.py").write_text("answer = 43\n")
    (folder / "folder" / "real.py").write_text("import helper\nprint(helper.answer)\n")
    (folder / "link.py").symlink_to(folder / "folder" / "real.py")
    assert both("link.py", cwd=folder).stdout == "43\n"


@pytest.mark.parametrize("args", [["program.py"], ["-c", PROGRAM], ["-m", "json.tool", "--help"]])
def test_the_safe_path_stays_safe(folder, args):
    code = "import sys, atexit; atexit.register(lambda: print(sys.path))"
    (folder / "program.py").write_text(code)
    if args[0] == "-c":
        args = ["-c", code]
    ours, theirs = (
        subprocess.run(
            [sys.executable, "-P", *module, *args],
            env=child_environment(),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        for module in (["-m", "velodrome"], [])
    )
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout), ours.stderr
