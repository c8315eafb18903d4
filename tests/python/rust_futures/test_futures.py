"""Rust futures awaited on velodrome's loop."""

import asyncio
import contextlib
import contextvars
import gc
import os
import signal
import socket
import sys
import threading
import time
import weakref

import pytest
import velodrome
from support import gone, open_fds, thread_count


@pytest.fixture
def loop():
    loop = velodrome.new_event_loop()
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture
def reports(loop):
    """What the exception handler is told."""
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    return reports


def turns(loop, count=3):
    """Run some iterations."""

    async def turn():
        for _ in range(count):
            await asyncio.sleep(0)

    loop.run_until_complete(turn())


# --- outcomes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_a_value_arrives(loop, probes, iterations):
    async def main():
        return await probes.value(token, iterations)

    token = object()
    assert loop.run_until_complete(main()) is token


def test_it_is_a_future_of_the_loop(loop, probes):
    async def main():
        future = probes.value(1)
        assert asyncio.isfuture(future) and future.get_loop() is loop
        assert not future.done(), "it is polled in the next iteration"
        return await asyncio.gather(future, probes.value(2, 3), asyncio.create_task(probes.value_of_coroutine()))

    async def of_coroutine():
        return await probes.value(3)

    probes.value_of_coroutine = of_coroutine
    try:
        assert loop.run_until_complete(main()) == [1, 2, 3]
    finally:
        del probes.value_of_coroutine


def test_its_steps_are_entries_of_the_ready_queue(loop, probes):
    async def main():
        order = []
        future = probes.calls(lambda: order.append("rust"))
        asyncio.get_running_loop().call_soon(order.append, "first")
        asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(order.append, "second"))
        await future
        return order

    assert loop.run_until_complete(main()) == ["rust", "first", "rust", "second", "rust"]


def test_a_timer_of_the_loop(loop, extension):
    async def main():
        start = loop.time()
        assert await extension.sleep(0.02) == 0.02
        return loop.time() - start

    assert 0.02 <= loop.run_until_complete(main()) < 1


def test_many_timers(loop, extension):
    async def main():
        return await asyncio.gather(*(extension.sleep(number % 7 / 1000) for number in range(1000)))

    assert len(loop.run_until_complete(main())) == 1000


async def echo(reader, writer):
    writer.write(await reader.readuntil(b"\n"))
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_tcp_exchange_without_a_thread(loop, extension, size):
    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0, limit=1 << 23)
        async with server:
            host, port = server.sockets[0].getsockname()
            message = b"x" * size + b"\n"
            threads = thread_count()
            assert threads == threading.active_count() == 1
            exchange = asyncio.ensure_future(extension.exchange(f"{host}:{port}", message))
            sleep = extension.sleep(0.001)
            while not exchange.done():
                assert thread_count() == threading.active_count() == 1
                await asyncio.sleep(0)
            await sleep
            assert await exchange == message

    before = len(open_fds())
    loop.run_until_complete(main())
    assert len(open_fds()) <= before + 4, "the loop's own"


def test_a_refused_connection_is_an_exception(loop, extension):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]

        async def main():
            await extension.exchange(f"127.0.0.1:{port}", b"")

        with pytest.raises(ConnectionRefusedError):
            loop.run_until_complete(main())


@pytest.mark.parametrize("error", [ValueError("no"), OSError(2, "x"), BaseException("base"), GeneratorExit()])
def test_an_exception_is_raised_where_it_is_awaited(loop, probes, error):
    async def main():
        with pytest.raises(type(error)) as raised:
            await probes.raises(error)
        return raised.value

    assert loop.run_until_complete(main()) is error


def test_a_stop_iteration_cannot_be_a_futures(loop, probes):
    async def main():
        await probes.raises(StopIteration(1))

    with pytest.raises((TypeError, RuntimeError), match="StopIteration"):
        loop.run_until_complete(main())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_leaves_the_loop_leaves_it(loop, probes, kind):
    futures = []

    async def main():
        futures.append(probes.raises(kind("leave")))
        await futures[0]

    task = loop.create_task(main())
    with pytest.raises(kind):
        loop.run_until_complete(task)
    with pytest.raises(kind):
        loop.run_until_complete(task)
    assert type(futures[0].exception()) is kind


def test_a_panic_is_an_exception(loop, probes, capfd):
    async def main():
        try:
            await probes.panics()
        except BaseException as error:
            return error

    error = loop.run_until_complete(main())
    assert type(error).__name__ == "PanicException"
    assert str(error) == "the future panicked"
    assert not isinstance(error, Exception)


def test_a_panic_nobody_hears_of_is_reported(loop, probes, reports):
    loop.call_soon(lambda: probes.panics())
    turns(loop, 5)
    gc.collect()
    assert [report["message"] for report in reports] == ["Future exception was never retrieved"]


def test_a_panic_of_a_task_is_reported(loop, probes, reports):
    async def main():
        await probes.panics_in_a_task()

    loop.run_until_complete(main())
    turns(loop)
    (report,) = reports
    assert str(report["exception"]) == "the task panicked"
    assert report["message"].startswith("Task exception was never retrieved (Task-")


def test_the_future_runs_although_nobody_awaits_it(loop, probes):
    called = []
    loop.call_soon(lambda: probes.calls(lambda: called.append(1)))
    loop.run_until_complete(asyncio.sleep(0.02))
    assert called == [1, 1, 1]


def test_a_task_of_rust_need_not_be_send(loop, probes):
    async def main():
        return await probes.shares()

    assert loop.run_until_complete(main()) == 3


def test_debug_mode(loop, probes, extension):
    async def main():
        await extension.sleep(0.001)
        return await probes.awaits(probes.value(4, 2))

    loop.set_debug(True)
    assert loop.run_until_complete(main()) == 4


def test_wait_for_and_timeout(loop, extension, probes):
    async def main():
        before = probes.dropped()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(probes.forever(), 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await probes.forever()
        assert probes.dropped() - before == 2
        return await asyncio.wait_for(extension.sleep(0.001), 5)

    assert loop.run_until_complete(main()) == 0.001


# --- the GIL and contexts -----------------------------------------------------------------------------


def test_the_gil_is_released_while_it_is_polled(loop, probes):
    async def main():
        return await probes.releases_the_gil()

    assert loop.run_until_complete(main()) == [True] * 3


def test_python_is_called_in_the_callers_context(loop, probes, extension):
    variable = contextvars.ContextVar("variable", default="none")

    async def main(value):
        variable.set(value)
        future = probes.calls(variable.get)
        variable.set("later")
        return await future

    async def both():
        return await asyncio.gather(main("a"), main("b"))

    assert loop.run_until_complete(both()) == [["a"] * 3, ["b"] * 3]
    assert variable.get() == "none"


def test_what_is_awaited_inherits_the_context(loop, probes):
    variable = contextvars.ContextVar("variable", default="none")

    async def inner():
        await asyncio.sleep(0)
        return variable.get()

    async def main():
        variable.set("outer")
        return await probes.awaits(inner())

    assert loop.run_until_complete(main()) == "outer"


def test_a_destructor_runs_in_the_callers_context(loop, probes):
    variable = contextvars.ContextVar("variable", default="none")
    seen = []

    async def main():
        variable.set("outer")
        task = asyncio.ensure_future(probes.forever(lambda: seen.append(variable.get())))
        await asyncio.sleep(0)
        variable.set("later")
        task.cancel()
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert seen == ["outer"]


# --- cancellation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("polled", [False, True])
def test_cancelling_the_task_drops_the_future(loop, probes, polled):
    dropped = []

    async def waits():
        try:
            await probes.forever(lambda: dropped.append("dropped"))
        finally:
            dropped.append("told")

    async def main():
        task = asyncio.create_task(waits())
        await asyncio.sleep(0.001 if polled else 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    loop.run_until_complete(main())
    assert dropped == ["dropped", "told"]


def test_a_cancelled_future_frees_what_it_waits_for(loop, probes):
    async def main():
        future = probes.waits_for_everything()
        await asyncio.sleep(0.001)
        during = len(open_fds())
        future.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return during - len(open_fds())

    before = probes.dropped()
    assert loop.run_until_complete(main()) == 2
    assert probes.dropped() == before + 1


def test_a_destructor_that_panics_is_reported(loop, probes, reports):
    async def main():
        future = probes.forever_with_a_bad_destructor()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        future.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    (report,) = reports
    assert str(report["exception"]) == "a destructor panicked"


def test_dropping_the_future_cancels_what_it_awaits(loop, probes):
    seen = []

    async def inner():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main():
        assert await probes.awaits_for(inner(), 0.005) is False
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        outer = asyncio.ensure_future(probes.awaits(inner()))
        await asyncio.sleep(0.001)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        await asyncio.sleep(0)
        return await probes.awaits_for(asyncio.sleep(0), 60)

    assert loop.run_until_complete(main()) is True
    assert seen == ["cancelled"] * 2


def test_cancellation_inside_is_cancellation_outside(loop, probes):
    async def main():
        inner = asyncio.get_running_loop().create_future()
        outer = probes.awaits(inner)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        inner.cancel()
        await asyncio.wait([outer])
        return outer.cancelled()

    assert loop.run_until_complete(main())


def test_a_result_from_outside_ends_the_future(loop, probes):
    async def main():
        before = probes.dropped()
        future = probes.forever()
        future.set_result("from outside")
        assert await future == "from outside"
        await asyncio.sleep(0)
        return probes.dropped() - before

    assert loop.run_until_complete(main()) == 1


# --- Python awaitables in Rust ------------------------------------------------------------------------


def test_python_awaitables_are_awaited(loop, probes):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "awaitable"

    async def coroutine():
        await asyncio.sleep(0.001)
        return "coroutine"

    async def main():
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.001, future.set_result, "future")
        return [await probes.awaits(it) for it in (coroutine(), Awaitable(), future)]

    assert loop.run_until_complete(main()) == ["coroutine", "awaitable", "future"]


def test_they_nest(loop, probes):
    async def nested(depth):
        return depth if depth == 0 else 1 + await probes.awaits(nested(depth - 1))

    assert loop.run_until_complete(nested(30)) == 30


def test_their_exceptions_go_through(loop, probes):
    error = LookupError("inner")

    async def fails():
        raise error

    async def main():
        await probes.awaits(fails())

    with pytest.raises(LookupError) as raised:
        loop.run_until_complete(main())
    assert raised.value is error


def test_what_is_no_awaitable_is_refused(loop, probes):
    async def main():
        await probes.awaits(5)

    with pytest.raises(TypeError, match="required"):
        loop.run_until_complete(main())


# --- threads ------------------------------------------------------------------------------------------


def test_another_thread_wakes_it(loop, probes):
    async def main():
        return await asyncio.gather(*(probes.woken_by_a_thread(number / 1000) for number in range(20)))

    assert loop.run_until_complete(main()) == [True] * 20


def test_another_thread_of_python_wakes_it(loop, probes):
    wakers = []

    async def main():
        future = probes.waits_for_call(wakers.append)
        await asyncio.sleep(0.001)
        threads = [threading.Thread(target=wakers[0]) for _ in range(8)]
        for thread in threads:
            thread.start()
        await future
        for thread in threads:
            thread.join()
        wakers[0]()  # it is done

    loop.run_until_complete(main())


def test_a_waker_outlives_the_loop(loop, probes):
    wakers = []
    loop.call_soon(probes_call := lambda: probes.waits_for_call(wakers.append))
    turns(loop)
    loop.close()
    wakers[0]()
    thread = threading.Thread(target=wakers[0])
    thread.start()
    thread.join()
    del probes_call


def test_loops_of_several_threads(probes, extension):
    results = []

    async def main(number):
        await extension.sleep(0.005)
        return await probes.value(number, 10)

    def run(number):
        with asyncio.Runner(loop_factory=velodrome.new_event_loop) as runner:
            results.append(runner.run(main(number)))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(6))


@pytest.mark.parametrize("what", ["sleep", "woken", "awaits"])
def test_a_loop_that_moves_to_another_thread_fails_its_futures(loop, probes, extension, what):
    async def wait():
        made = {
            "sleep": lambda: extension.sleep(0.05),
            "woken": lambda: probes.woken_by_a_thread(0.05),
            "awaits": lambda: probes.awaits(asyncio.sleep(0.05)),
        }
        with pytest.raises(RuntimeError, match="another thread"):
            await made[what]()
        # And the loop has an executor there.
        return await probes.value("there", 2)

    async def begin():
        task = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        return task

    task = loop.run_until_complete(begin())
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(loop.run_until_complete(asyncio.wait_for(task, 5))))
    thread.start()
    thread.join()
    assert outcome == ["there"]
    # The futures that were left here are dropped when the thread comes by.
    before = probes.dropped()
    loop.run_until_complete(asyncio.wait_for(begin_and_end(probes), 5))
    assert probes.dropped() - before == (1 if what == "awaits" else 0)


async def begin_and_end(probes):
    return await probes.value(1)


def test_a_thread_that_ends_drops_its_futures(loop, probes):
    before = probes.dropped()

    def run():
        loop.call_soon(probes.forever)
        loop.call_soon(probes.waits_for_everything)
        loop.call_soon(lambda: probes.awaits(asyncio.sleep(1000)))
        turns(loop)

    loop.run_until_complete(asyncio.sleep(0.001))  # it has its descriptors
    fds = len(open_fds())
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    # Up to Python 3.12, a joined thread may be about to run its last destructors.
    deadline = time.monotonic() + 10
    while probes.dropped() < before + 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert probes.dropped() == before + 3
    assert len(open_fds()) == fds
    turns(loop)
    loop.run_until_complete(begin_and_end(probes))


# --- ends ---------------------------------------------------------------------------------------------


def test_there_must_be_a_running_loop(probes):
    with pytest.raises(RuntimeError, match="no running event loop"):
        probes.value(1)


def test_closing_the_loop_drops_the_futures(loop, probes):
    before, fds = probes.dropped(), len(open_fds())
    loop.call_soon(probes.forever)
    loop.call_soon(probes.waits_for_everything)
    loop.call_soon(lambda: probes.awaits(loop.create_future()))
    turns(loop)
    assert probes.dropped() == before
    loop.close()
    assert probes.dropped() == before + 3
    assert len(open_fds()) <= fds


def test_a_future_that_was_never_polled_is_dropped(loop, probes):
    before = probes.dropped()
    loop.call_soon(lambda: (probes.forever(), loop.stop()))
    loop.run_forever()
    loop.close()
    assert probes.dropped() == before + 1


def test_a_destructor_may_use_the_closed_loop(loop, probes):
    seen = []

    def called():
        for use in (lambda: loop.call_soon(print), lambda: probes.value(1)):
            with contextlib.suppress(RuntimeError):
                use()
                seen.append("not refused")
        seen.append("called")

    loop.call_soon(lambda: probes.forever(called))
    turns(loop)
    loop.close()
    assert seen == ["called"]


@pytest.mark.parametrize("pending", [False, True])
def test_no_cycle_keeps_a_forgotten_loop_alive(probes, pending):
    loop = velodrome.new_event_loop()
    before = probes.dropped()
    if pending:
        loop.call_soon(probes.forever)
        loop.call_soon(probes.waits_for_everything)
        loop.call_soon(lambda: probes.awaits(asyncio.sleep(1000)))
    loop.run_until_complete(begin_and_end(probes))
    turns(loop)
    watched = weakref.ref(loop)
    with pytest.warns(ResourceWarning):
        del loop
        gc.collect()
    assert gone(watched)
    assert probes.dropped() - before == (3 if pending else 0)


def test_a_closed_loop_is_freed(probes):
    loop = velodrome.new_event_loop()
    loop.call_soon(probes.forever)
    loop.run_until_complete(begin_and_end(probes))
    loop.close()
    watched = weakref.ref(loop)
    del loop
    assert gone(watched)


def test_a_task_that_nobody_keeps_is_not_collected_while_it_waits(loop, extension):
    done = []

    async def waits():
        await extension.sleep(0.02)
        done.append(1)

    async def main():
        asyncio.create_task(waits())
        await asyncio.sleep(0.001)
        gc.collect()
        await asyncio.sleep(0.05)

    loop.run_until_complete(main())
    assert done == [1]


def test_a_signal_is_handled_while_a_future_waits(loop, extension):
    async def main():
        loop.call_later(0.01, os.kill, os.getpid(), signal.SIGINT)
        await extension.sleep(60)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(main())
    assert time.monotonic() - start < 30


# --- leaks --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(sys, "gettotalrefcount"), reason="needs a debug build")
@pytest.mark.timeout(300)
def test_cancelled_awaits_leak_nothing(probes, extension):
    from support import resident_bytes

    async def cancelled(make):
        future = make()
        await asyncio.sleep(0)
        future.cancel()
        try:
            await future
        except asyncio.CancelledError:
            pass

    async def many(count):
        for _ in range(count // 5):
            for make in (
                probes.forever,
                lambda: extension.sleep(1000),
                probes.waits_for_everything,
                lambda: probes.awaits(asyncio.sleep(1000)),
                lambda: probes.value(None, 5),
            ):
                await cancelled(make)
        await asyncio.sleep(0.001)

    def measure():
        gc.collect()
        return sys.gettotalrefcount(), len(open_fds()), resident_bytes(os.getpid())

    with asyncio.Runner(loop_factory=velodrome.new_event_loop) as runner:
        runner.run(many(5_000))
        before = measure()
        dropped = probes.dropped()
        runner.run(many(100_000))
        after = measure()
    assert probes.dropped() - dropped == 60_000
    assert abs(after[0] - before[0]) < 100
    assert after[1] == before[1]
    assert after[2] - before[2] < 2_000_000
