"""`python -m velodrome SCRIPT | -m MODULE | -c CODE [ARGS]`: runs a program on velodrome.

`--info` says what velodrome has found on this machine, for reports of bugs.

`asyncio.new_event_loop()` and everything that makes loops by it (`asyncio.run`, `asyncio.Runner`,
policies) makes velodrome's loops in that process; nothing else of the program changes. After
`--children` the same goes for the Pythons that the program starts, which inherit two variables of
the environment; `--environment` prints these for a shell.
"""

import os
import runpy
import shlex
import sys
import types

import velodrome

from ._default import make_default

_USAGE = """\
usage: python -m velodrome [--children] SCRIPT | -m MODULE | -c CODE [ARGS]
       python -m velodrome --environment | --info | --version | --help"""


# A folder with a `sitecustomize` and nothing else.
_CHILDREN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "children")


def _environment() -> dict[str, str]:
    """What makes each Python that inherits it run on velodrome."""
    path = os.environ.get("PYTHONPATH")
    if path and path.split(os.pathsep)[0] != _CHILDREN:
        path = _CHILDREN + os.pathsep + path
    return {"VELODROME": "1", "PYTHONPATH": path or _CHILDREN}


def _set_first_path(path: str) -> None:
    """Put it where Python has put the directory of `-m velodrome`, unless it was told not to."""
    if not sys.flags.safe_path:
        sys.path[0] = path


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"velodrome {velodrome.__version__}")
        return 0
    if argv[0] == "--info":
        from . import _info

        print(*_info.lines(), sep="\n")
        return 0
    if argv[0] == "--environment":
        print("export", *(f"{name}={shlex.quote(value)}" for name, value in _environment().items()))
        return 0
    for_children = argv[0] == "--children"
    if for_children:
        argv = argv[1:]
        if not argv:
            print(_USAGE, file=sys.stderr)
            return 2
    option, rest = argv[0], argv[1:]
    if option in ("-m", "-c") and not rest:
        print(f"python -m velodrome: argument expected for {option}\n{_USAGE}", file=sys.stderr)
        return 2
    if option.startswith("-") and option not in ("-m", "-c"):
        print(f"python -m velodrome: unknown option {option}\n{_USAGE}", file=sys.stderr)
        return 2
    if option not in ("-m", "-c") and not os.path.exists(option):
        print(f"python -m velodrome: can't open {option!r}: no such file", file=sys.stderr)
        return 2
    make_default()
    if for_children:
        os.environ.update(_environment())
    if option == "-m":
        sys.argv = rest
        _set_first_path(os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif option == "-c":
        sys.argv = ["-c", *rest[1:]]
        _set_first_path("")
        program = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), program.__dict__)
    else:
        sys.argv = argv
        _set_first_path(os.path.dirname(os.path.realpath(option)))
        runpy.run_path(option, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
