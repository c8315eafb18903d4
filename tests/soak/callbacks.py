"""Callbacks, timers, threads, tasks, names and signals."""

import asyncio
import contextlib
import contextvars
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from activity import LOCALHOST, Expected, activity, check, ended

SIGNALS = [signal.SIGUSR1, signal.SIGUSR2, *range(signal.SIGRTMIN + 2, signal.SIGRTMIN + 6)]

VARIABLE = contextvars.ContextVar("VARIABLE")


@activity
async def timers(soak, rng):
    loop = soak.loop
    fired, done = {}, loop.create_future()
    cancelled, handles = set(), []
    count = rng.randrange(1, 300)

    def fire(number, when):
        check(loop.time() >= when, "early")
        check(number not in cancelled and number not in fired, "a timer that was cancelled, or has fired")
        fired[number] = when
        if rng.random() < 0.1:
            cancel(rng.randrange(len(handles)))
        if len(fired) + len(cancelled) == count and not done.done():
            done.set_result(None)

    def cancel(number):
        if number not in fired:
            handles[number].cancel()
            cancelled.add(number)

    times = [loop.time() + rng.uniform(-0.001, 0.03) for _ in range(rng.randrange(1, 50))]
    try:
        for number in range(count):
            when = rng.choice(times)
            handles.append(loop.call_at(when, fire, number, when))
        for number in rng.sample(range(count), count // 2):
            cancel(number)
        if len(cancelled) < count:
            await done
        check(list(fired.values()) == sorted(fired.values()), "another order")
    finally:
        for handle in handles:
            handle.cancel()


@activity
async def callbacks(soak, rng):
    loop = soak.loop
    ran, expected = [], []
    count = rng.randrange(1, 500)
    last = loop.create_future()

    def run(number):
        check(VARIABLE.get() == number, "another context")
        ran.append(number)

    kept = []
    for number in range(count):
        context = contextvars.copy_context()
        context.run(VARIABLE.set, number)
        if rng.random() < 0.5:
            handle = loop.call_soon(run, number, context=context)
        else:
            handle = context.run(loop.call_soon_threadsafe, run, number)
        if rng.random() < 0.3:
            handle.cancel()
        else:
            expected.append(number)
        if rng.random() < 0.3:
            kept.append(handle)
    loop.call_soon(lambda: last.done() or last.set_result(None))
    await last
    check(ran == expected, "another order")
    for handle in kept:
        handle.cancel()


@activity
async def calls_from_threads(soak, rng):
    loop = soak.loop
    counts = [rng.randrange(1, 200) for _ in range(rng.randrange(1, 4))]
    received = [[] for _ in counts]
    pause = rng.choice([0, 0, 0.0001])

    def send(thread, count):
        for number in range(count):
            handle = loop.call_soon_threadsafe(received[thread].append, number)
            extra = loop.call_soon_threadsafe(received[thread].append, number)
            extra.cancel()
            del handle
            if pause:
                time.sleep(pause)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()

    threads = [threading.Thread(target=send, args=arguments) for arguments in enumerate(counts)]
    try:
        for thread in threads:
            thread.start()
    finally:
        while any(thread.is_alive() for thread in threads):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.001)
    for count, numbers in zip(counts, received, strict=True):
        # A call may have begun when it was cancelled; its own order is kept all the same.
        check(sorted(set(numbers)) == list(range(count)) and numbers == sorted(numbers), "another order")


@activity
async def executors(soak, rng):
    loop = soak.loop

    def work(number):
        time.sleep(pause)
        if fails:
            raise Expected
        return number

    pause, fails = rng.choice([0, 0.0005]), rng.random() < 0.3
    own = ThreadPoolExecutor(2) if rng.random() < 0.3 else None
    try:
        calls = [loop.run_in_executor(own, work, number) for number in range(rng.randrange(1, 10))]
        if rng.random() < 0.3:
            rng.choice(calls).cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        for number, result in enumerate(results):
            check(result == number or isinstance(result, (Expected, asyncio.CancelledError)), f"{result!r}")
        check(await asyncio.to_thread(VARIABLE.get, None) == VARIABLE.get(None), "another context")
    finally:
        if own is not None:
            own.shutdown(cancel_futures=True)


@activity
async def names(soak, rng):
    loop = soak.loop
    calls = [
        loop.getaddrinfo(rng.choice([LOCALHOST, "localhost"]), 80, family=socket.AF_INET, type=socket.SOCK_STREAM)
        for _ in range(rng.randrange(1, 5))
    ]
    for found in await asyncio.gather(*calls):
        check(found[0][4] == (LOCALHOST, 80), f"{found}")
    numbers = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    check(await loop.getnameinfo((LOCALHOST, 80), numbers) == (LOCALHOST, "80"), "another name")


@activity
async def tasks(soak, rng):
    queue = asyncio.Queue(rng.choice([0, 1, 5]))
    count = rng.randrange(1, 100)

    async def produce():
        for number in range(count):
            await queue.put(number)

    async def numbers():
        for _ in range(count):
            yield await queue.get()

    async def consume():
        return [number async for number in numbers()]

    async def sleep_long():
        async for _ in numbers():  # an asynchronous generator that is given up
            await asyncio.shield(asyncio.sleep(0.001))
            await asyncio.sleep(10)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(rng.choice([None, 0.001, 1])), asyncio.TaskGroup() as group:
            group.create_task(produce())
            consumer = group.create_task(consume())
        check(consumer.result() == list(range(count)), "other numbers")
    sleeper = asyncio.ensure_future(sleep_long())
    queue.put_nowait(1) if not queue.full() else None
    try:
        await asyncio.sleep(rng.choice([0, 0.001]))
    finally:
        await ended(sleeper)


@activity
async def signals(soak, rng):
    loop = soak.loop
    if not soak.free_signals:
        return
    number = soak.free_signals.pop()
    came = asyncio.Event()
    try:
        loop.add_signal_handler(number, came.set)
        try:
            for _ in range(rng.randrange(1, 5)):
                came.clear()
                os.kill(os.getpid(), number)
                await came.wait()
        finally:
            # What was sent must have arrived, for nobody else may get it.
            signal.signal(number, signal.SIG_IGN)
            check(loop.remove_signal_handler(number), "no handler")
            signal.signal(number, signal.SIG_IGN)
    finally:
        soak.free_signals.append(number)
