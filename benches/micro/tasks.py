"""Tasks and futures."""

import asyncio

from .workload import batches, expect, one, workload


@workload(chunk=5_000)
def sleep_0_1_task(loop, operations):
    """One task awaiting `sleep(0)`."""
    expect(loop.run_until_complete(yield_often(operations)), operations)


@workload(chunk=20_000)
def sleep_0_100_tasks(loop, operations):
    """A hundred tasks awaiting `sleep(0)` in turn."""

    async def main():
        tasks = [asyncio.create_task(yield_often(operations // 100)) for _ in range(100)]
        expect(sum([await task for task in tasks]), operations)

    loop.run_until_complete(main())


async def yield_often(times):
    done = 0
    for _ in range(times):
        await asyncio.sleep(0)
        done += 1
    return done


@workload(chunk=3_000)
def create_task_and_await(loop, operations):
    """A task that returns at once, awaited; one after the other."""

    async def main():
        done = 0
        for _ in range(operations):
            done += await asyncio.create_task(one())
        expect(done, operations)

    loop.run_until_complete(main())


@workload(chunk=10_000)
def gather_1000(loop, operations):
    """A gather of 1000 coroutines; an operation is one of them."""

    async def main():
        done = 0
        for size in batches(operations, 1000):
            done += sum(await asyncio.gather(*[one() for _ in range(size)]))
        expect(done, operations)

    loop.run_until_complete(main())


@workload(chunk=5_000)
def task_group_100(loop, operations):
    """A TaskGroup of 100 tasks that return at once; an operation is one of them."""

    async def main():
        done = 0
        for size in batches(operations, 100):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one()) for _ in range(size)]
            done += sum(task.result() for task in tasks)
        expect(done, operations)

    loop.run_until_complete(main())


@workload(chunk=6_000)
def future_ping_pong(loop, operations):
    """Two tasks wake each other by setting futures; an operation is one wake-up."""
    turns = [loop.create_future(), loop.create_future()]

    async def player(me):
        wake_ups = 0
        for _ in range(operations // 2):
            await turns[me]
            wake_ups += 1
            turns[me] = loop.create_future()
            turns[1 - me].set_result(None)
        return wake_ups

    async def main():
        turns[0].set_result(None)
        expect(sum(await asyncio.gather(player(0), player(1))), operations)

    loop.run_until_complete(main())


@workload(chunk=6_000)
def queue_ping_pong(loop, operations):
    """Two tasks and two queues; an operation is one item handed over."""

    async def pass_on(source, target):
        for _ in range(operations // 2):
            await target.put(await source.get() + 1)

    async def main():
        ping, pong = asyncio.Queue(), asyncio.Queue()
        await ping.put(0)
        await asyncio.gather(pass_on(ping, pong), pass_on(pong, ping))
        expect(await ping.get(), operations)

    loop.run_until_complete(main())


@workload(chunk=2_000)
def wait_for(loop, operations):
    """`wait_for` of a coroutine that is done a tick later, long before the timeout."""

    async def main():
        done = 0
        for _ in range(operations):
            done += await asyncio.wait_for(yield_often(1), 60)
        expect(done, operations)

    loop.run_until_complete(main())


@workload(chunk=2_000)
def timeout(loop, operations):
    """As wait-for, in a block of `asyncio.timeout`."""

    async def main():
        done = 0
        for _ in range(operations):
            async with asyncio.timeout(60):
                done += await yield_often(1)
        expect(done, operations)

    loop.run_until_complete(main())
