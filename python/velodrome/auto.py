"""`import velodrome.auto`: from then on asyncio makes velodrome's loops by default in this process.

For what makes its loop itself and can be told to import a module: a program's first line, the
configuration file of a server, `pytest -p velodrome.auto`. With VELODROME=0 in the environment the
import changes nothing, so the loop can be changed back without touching the program.
"""

import asyncio
import os
import warnings

from ._default import make_default
from ._loop import Loop

if os.environ.get("VELODROME") != "0":
    _running = asyncio._get_running_loop()
    if _running is not None and not isinstance(_running, Loop):
        warnings.warn(
            f"velodrome.auto was imported while {type(_running).__name__} runs, which stays this "
            "thread's loop; import it before the loop is made",
            RuntimeWarning,
            stacklevel=2,
        )
    make_default()
