"""`python -m velodrome SCRIPT | -m MODULE | -c CODE [ARGS]`: runs a program on velodrome.

`--info` says what velodrome has found on this machine, for reports of bugs.

`asyncio.new_event_loop()` and everything that makes loops by it (`asyncio.run`, `asyncio.Runner`,
policies) makes velodrome's loops in that process; nothing else of the program changes.
"""

import asyncio
import asyncio.events
import os
import runpy
import sys
import types

import velodrome

_USAGE = """\
usage: python -m velodrome SCRIPT | -m MODULE | -c CODE [ARGS]
       python -m velodrome --info | --version | --help"""


def patch() -> None:
    """Make velodrome's loops wherever asyncio makes one by default.

    A program that brings a policy or a loop factory of its own still gets its own.
    """
    get_policy = getattr(asyncio.events, "_get_event_loop_policy", None) or getattr(
        asyncio.events, "get_event_loop_policy", None
    )
    if get_policy is None:  # 3.16: there are no policies any more
        asyncio.new_event_loop = asyncio.events.new_event_loop = velodrome.new_event_loop
    else:
        # The default policy makes its loops by this attribute of its class.
        type(get_policy())._loop_factory = velodrome.Loop
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = velodrome.Loop  # type: ignore[assignment,misc]


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
    patch()
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
