"""Event loop policies, where asyncio has them: deprecated since 3.14, gone with 3.16."""

import asyncio
import sys
import warnings

from ._loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import DefaultEventLoopPolicy as _Base
    from asyncio import get_event_loop_policy as _get_policy
    from asyncio import set_event_loop_policy as _set_policy
else:
    with warnings.catch_warnings():
        # The names warn on 3.14 and later; whoever imports this module has asked for them.
        warnings.simplefilter("ignore", DeprecationWarning)
        _Base = getattr(asyncio, "DefaultEventLoopPolicy", None)
        _set_policy = getattr(asyncio, "set_event_loop_policy", None)
        _get_policy = getattr(asyncio, "get_event_loop_policy", None)

if _Base is None:
    raise ImportError(
        f"Python {sys.version_info.major}.{sys.version_info.minor} has no event loop policies; "
        "use asyncio.run(main(), loop_factory=velodrome.new_event_loop)"
    )


class EventLoopPolicy(_Base):
    """asyncio's default policy, making velodrome's loops."""

    def _loop_factory(self) -> Loop:
        return Loop()


def install() -> None:
    """Make velodrome's loops the ones that `asyncio.new_event_loop()` and `asyncio.run()` make.

    For the whole process. Where policies are deprecated (3.14 and later) it warns: prefer
    `asyncio.run(main(), loop_factory=velodrome.new_event_loop)` or `velodrome.run(main())`.
    """
    if sys.version_info >= (3, 14):
        warnings.warn(
            "velodrome.install() uses event loop policies, which are deprecated and end with "
            "Python 3.16; use velodrome.run(main()) or "
            "asyncio.run(main(), loop_factory=velodrome.new_event_loop)",
            DeprecationWarning,
            stacklevel=2,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        _set_policy(EventLoopPolicy())


def uninstall() -> None:
    """Undo `install()`: asyncio's own default policy is made anew when it is needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if isinstance(_get_policy(), EventLoopPolicy):
            _set_policy(None)
