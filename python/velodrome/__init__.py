"""velodrome: asyncio's event loop, written in Rust.

``velodrome.run(main())`` or ``asyncio.run(main(), loop_factory=velodrome.new_event_loop)`` runs a
program on it; ``python -m velodrome program.py`` runs one that knows nothing of it.
"""

import asyncio as _asyncio
import sys as _sys

if _sys.platform != "linux":
    raise ImportError(f"velodrome runs on Linux; this is {_sys.platform!r}")
if _sys.implementation.name != "cpython" or _sys.version_info < (3, 11):
    raise ImportError(
        f"velodrome runs on CPython 3.11 and newer; this is {_sys.implementation.name}, "
        f"Python {_sys.version_info[0]}.{_sys.version_info[1]}"
    )

try:
    from ._loop import Loop
    from ._native import __version__
except (ImportError, AttributeError) as _error:
    from ._unavailable import explain as _explain

    _explain(_error)
    raise

# From 3.14 on asyncio does not import `typing`, which takes longer than all that is here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing as _typing

    from ._policy import EventLoopPolicy, install, uninstall

    _T = _typing.TypeVar("_T")

__all__ = ["Loop", "__version__", "new_event_loop", "run"]
if _sys.version_info < (3, 16):
    __all__ += ["EventLoopPolicy", "install", "uninstall"]


def new_event_loop() -> Loop:
    """Return a new event loop. It is nobody's current loop until `asyncio.set_event_loop`."""
    return Loop()


def run(
    main: "_typing.Coroutine[_typing.Any, _typing.Any, _T]",
    *,
    debug: bool | None = None,
    loop_factory: "_typing.Callable[[], _asyncio.AbstractEventLoop] | None" = None,
) -> "_T":
    """Run a coroutine on a new velodrome loop and return its result, as `asyncio.run` does.

    `loop_factory` makes the loop instead of `new_event_loop`. Raises RuntimeError if a loop is
    running in this thread, and ValueError or TypeError if `main` is no coroutine, as each version
    of asyncio does.
    """
    if _asyncio._get_running_loop() is not None:
        raise RuntimeError("velodrome.run() cannot be called from a running event loop")
    with _asyncio.Runner(debug=debug, loop_factory=loop_factory or new_event_loop) as runner:
        return runner.run(main)


# To type checkers each name would be one of its.
if not TYPE_CHECKING:

    def __getattr__(name):
        # asyncio's policies are deprecated since 3.14 and end with 3.16: touching them warns, so it
        # happens only for those who ask.
        if name in __all__:
            from . import _policy

            return getattr(_policy, name)
        message = f"module {__name__!r} has no attribute {name!r}"
        if name in ("EventLoopPolicy", "install", "uninstall"):
            message += (
                ", as event loop policies ended with Python 3.16; use velodrome.run(main()) or "
                "asyncio.run(main(), loop_factory=velodrome.new_event_loop)"
            )
        raise AttributeError(message)
