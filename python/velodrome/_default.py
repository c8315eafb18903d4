"""Makes velodrome's loops the ones that asyncio makes when nobody asks for others."""

import asyncio
import asyncio.events

from ._loop import Loop


def make_default() -> None:
    """Make velodrome's loops wherever asyncio makes one by default, in the whole process.

    A program that brings a policy or a loop factory of its own still gets its own.
    """
    get_policy = getattr(asyncio.events, "_get_event_loop_policy", None) or getattr(
        asyncio.events, "get_event_loop_policy", None
    )
    if get_policy is None:  # 3.16: there are no policies any more
        asyncio.new_event_loop = asyncio.events.new_event_loop = Loop
    else:
        # The default policy makes its loops by this attribute of its class.
        type(get_policy())._loop_factory = Loop
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = Loop  # type: ignore[misc,assignment]
