"""A typed program over velodrome's public names: checked by `mypy --strict`, then run.

Only names and types matter here; what the loop does is tested elsewhere. EventLoopPolicy is left
out: the Pythons that deprecate policies, or lack them, run this file, too.
"""

import asyncio
from collections.abc import Callable

import velodrome


async def add(left: int, right: int) -> int:
    await asyncio.sleep(0)
    return left + right


# A loop is an asyncio loop, wherever one is asked for.
factory: Callable[[], asyncio.AbstractEventLoop] = velodrome.new_event_loop
loop: velodrome.Loop = velodrome.new_event_loop()
abstract: asyncio.AbstractEventLoop = loop

total: int = loop.run_until_complete(add(1, 2))
called: list[str] = []
handle: asyncio.Handle = loop.call_soon(called.append, "soon")
timer: asyncio.TimerHandle = loop.call_later(0, called.append, "later")
due: float = timer.when()
loop.call_soon_threadsafe(loop.stop)
loop.run_forever()
closed: bool = loop.is_closed()
loop.close()

# velodrome.run returns what the coroutine returns, as asyncio.run does.
sum_of_run: int = velodrome.run(add(3, 4))
sum_in_debug: int = velodrome.run(add(3, 4), debug=True)
sum_elsewhere: int = velodrome.run(add(3, 4), loop_factory=asyncio.SelectorEventLoop)

with asyncio.Runner(loop_factory=velodrome.new_event_loop) as runner:
    sum_of_runner: int = runner.run(add(5, 6))

install: Callable[[], None] = velodrome.install
uninstall: Callable[[], None] = velodrome.uninstall
version: str = velodrome.__version__

assert (total, sum_of_run, sum_in_debug, sum_elsewhere, sum_of_runner) == (3, 7, 7, 7, 11)
assert "soon" in called and not closed and due > 0 and version
print("typed sample: ran on", type(abstract).__module__)
