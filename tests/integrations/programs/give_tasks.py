"""Gives the worker in tasks.py one task until it is done: what is published before a worker listens is lost."""

import asyncio
from pathlib import Path

from tasks import add, broker


async def main():
    await broker.startup()
    answer = Path("answer")
    while not answer.exists():
        await add.kiq(2, 40, str(answer.absolute()))
        await asyncio.sleep(0.05)
    await broker.shutdown()
    print(answer.read_text())


asyncio.run(main())
