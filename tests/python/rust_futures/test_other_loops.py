"""Rust futures where the running loop is not velodrome's: an error, or by choice asyncio's own methods."""

import asyncio
import gc
import threading
import weakref

import pytest
from support import gone, open_fds
from test_futures import echo


@pytest.fixture
def loop(other_loop):
    loop = other_loop()
    yield loop
    loop.close()


async def waits(function, *args):
    return await function(*args)


def test_it_is_refused(loop, extension, probes):
    is_another = f"need velodrome's event loop, not .*{type(loop).__name__}"
    with pytest.raises(RuntimeError, match=is_another):
        loop.run_until_complete(waits(extension.sleep, 0.001))
    # Also once the loop has futures of the other kind.
    loop.run_until_complete(waits(probes.sleep_on_any_loop, 0.001))
    with pytest.raises(RuntimeError, match="need velodrome's event loop"):
        loop.run_until_complete(waits(extension.sleep, 0.001))


@pytest.mark.parametrize("debug", [False, True])
def test_a_timer(loop, probes, debug):
    async def main():
        start = loop.time()
        await probes.sleep_on_any_loop(0.02)
        await asyncio.gather(*(probes.sleep_on_any_loop(number / 1000) for number in range(20)))
        return loop.time() - start

    loop.set_debug(debug)
    # uvloop's clock has milliseconds.
    assert 0.018 < loop.run_until_complete(main()) < 2


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_tcp_exchange(loop, probes, size):
    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0, limit=1 << 23)
        async with server:
            host, port = server.sockets[0].getsockname()
            message = b"x" * size + b"\n"
            for _ in range(3):
                assert await probes.exchange_on_any_loop(f"{host}:{port}", message) == message
            assert threading.active_count() == 1

    loop.run_until_complete(main())  # opens a poller of its own, and what uvloop keeps
    before = open_fds()
    loop.run_until_complete(main())
    assert open_fds() == before


def test_another_thread_wakes_it(loop, probes):
    assert loop.run_until_complete(waits(probes.woken_by_a_thread, 0.01, True)) is True


def test_cancellation_both_ways(loop, probes):
    seen = []

    async def inner():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main():
        outer = asyncio.ensure_future(probes.awaits(inner(), True))
        await asyncio.sleep(0.001)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        await asyncio.sleep(0)
        return await probes.awaits(asyncio.sleep(0.001, "slept"), True)

    assert loop.run_until_complete(main()) == "slept"
    assert seen == ["cancelled"]


def test_a_loop_that_moves_to_another_thread_fails_its_futures(loop, probes):
    async def wait():
        with pytest.raises(RuntimeError, match="another thread"):
            await probes.sleep_on_any_loop(0.03)
        return "told"

    async def begin():
        task = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        return task

    task = loop.run_until_complete(begin())
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(loop.run_until_complete(asyncio.wait_for(task, 5))))
    thread.start()
    thread.join()
    assert outcome == ["told"]


def test_the_futures_go_with_the_loop(other_loop, probes):
    loop = other_loop()
    before, fds = probes.dropped(), len(open_fds())

    async def main():
        probes.forever(None, True)
        probes.awaits(asyncio.sleep(1000), True)
        asyncio.ensure_future(probes.sleep_on_any_loop(1000))
        await asyncio.sleep(0.001)

    loop.run_until_complete(main())
    loop.close()
    watched = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone(watched)
    assert probes.dropped() == before + 2
    assert len(open_fds()) <= fds


def test_velodromes_loop_is_used_as_ever(probes):
    import velodrome

    loop = velodrome.new_event_loop()
    assert loop.run_until_complete(waits(probes.sleep_on_any_loop, 0.001)) == 0.001
    loop.close()
