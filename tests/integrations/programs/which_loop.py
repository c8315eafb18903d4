"""Says on which loop it is called: in the process that serves, not in that of the test."""

import asyncio
import os
import sys


def which_loop():
    """ "velodrome" for exactly its class, else the name of the class."""
    cls = type(asyncio.get_running_loop())
    package = sys.modules.get("velodrome")
    is_ours = package is not None and cls is package.Loop
    return {"loop": "velodrome" if is_ours else f"{cls.__module__}.{cls.__qualname__}", "pid": os.getpid()}
