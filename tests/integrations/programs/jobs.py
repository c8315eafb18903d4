"""A worker of arq."""

import asyncio
import os

import arq.worker
from arq.connections import RedisSettings
from which_loop import which_loop


async def nothing(*arguments):
    """In place of a line in the log: the Redis of the test knows no INFO."""


arq.worker.log_redis_info = nothing


async def add(context, left, right):
    await asyncio.sleep(0)
    return which_loop() | {"sum": left + right}


class WorkerSettings:
    functions = [add]
    redis_settings = RedisSettings(port=int(os.environ["REDIS_PORT"]))
    poll_delay = 0.05
