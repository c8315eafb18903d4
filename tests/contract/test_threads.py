"""Several threads: call_soon_threadsafe, and loops that run at the same time."""

import asyncio
import contextvars
import socket
import sys
import threading
import time

import pytest
from support import run_child, wait_until_idle


class LoopThread:
    """A loop that runs in a thread of its own for as long as the `with` block."""

    def __init__(self, loop):
        self.loop = loop
        self.started = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(self.started.set)
        self.loop.run_forever()
        asyncio.set_event_loop(None)

    def __enter__(self):
        self.thread.start()
        self.started.wait()
        return self

    def __exit__(self, *exc):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def call(self, function, *args):
        """Run `function(*args)` in the loop; return what it returned."""

        async def calling():
            return function(*args)

        return asyncio.run_coroutine_threadsafe(calling(), self.loop).result()


def in_threads(count, target):
    threads = [threading.Thread(target=target, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_call_soon_threadsafe_wakes_a_sleeping_loop(loop):
    with LoopThread(loop) as running:
        wait_until_idle("self", running.thread.native_id)
        called = threading.Event()
        loop.call_soon_threadsafe(called.set)
        called.wait()


def test_call_soon_threadsafe_wakes_a_loop_that_waits_for_a_timer(loop):
    timer = loop.call_later(1000, print)
    with LoopThread(loop) as running:
        for _ in range(20):
            wait_until_idle("self", running.thread.native_id)
            called = threading.Event()
            loop.call_soon_threadsafe(called.set)
            called.wait()
    timer.cancel()


def test_the_callback_runs_in_the_thread_of_the_loop(loop):
    with LoopThread(loop) as running:
        ran_in = []
        called = threading.Event()
        loop.call_soon_threadsafe(lambda: (ran_in.append(threading.get_ident()), called.set()))
        called.wait()
        assert ran_in == [running.thread.ident]


def test_one_thread_keeps_its_order(loop):
    ran = []

    def caller(_):
        for number in range(5000):
            loop.call_soon_threadsafe(ran.append, number)
        loop.call_soon_threadsafe(loop.stop)

    threads = in_threads(1, caller)
    loop.run_forever()
    threads[0].join()
    assert ran == list(range(5000))


def test_many_threads_lose_nothing_and_each_keeps_its_order(loop):
    ran = []
    done = []

    def finish():
        done.append(True)
        if len(done) == 8:
            loop.stop()

    def caller(number):
        for count in range(1000):
            loop.call_soon_threadsafe(ran.append, (number, count))
        loop.call_soon_threadsafe(finish)

    threads = in_threads(8, caller)
    loop.run_forever()
    for thread in threads:
        thread.join()
    assert len(ran) == 8000
    for number in range(8):
        assert [count for who, count in ran if who == number] == list(range(1000))


def test_nothing_is_lost_while_the_loop_is_busy_with_its_own(loop):
    ran = []

    def own(left):
        if left:
            loop.call_soon(own, left - 1)

    def caller(_):
        for number in range(2000):
            loop.call_soon_threadsafe(ran.append, number)
        loop.call_soon_threadsafe(loop.stop)

    loop.call_soon(own, 5000)
    threads = in_threads(1, caller)
    loop.run_forever()
    threads[0].join()
    assert ran == list(range(2000))


def test_a_thread_that_posts_without_a_pause_lets_the_loop_go_round(loop):
    ran = []

    def post():
        for number in range(100_000):
            loop.call_soon_threadsafe(ran.append, number)
        return len(ran)

    async def main():
        return await loop.run_in_executor(None, post)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # the interpreter will not take the GIL away from it
    try:
        ran_meanwhile = loop.run_until_complete(main())
    finally:
        sys.setswitchinterval(interval)
    assert ran_meanwhile > 0
    assert ran == list(range(100_000))


def test_a_loop_that_always_finds_something_ready_lets_a_thread_have_the_interpreter(loop):
    near, far = socket.socketpair()
    turns = 0
    ended = threading.Event()

    def ready():
        nonlocal turns
        turns += 1
        if ended.is_set() or turns == 100_000:
            loop.stop()

    def work(_):
        for _ in range(5):
            time.sleep(0.001)  # lets the interpreter go, and has to get it back
        ended.set()

    with near, far:
        far.send(b"never read")
        loop.add_reader(near, ready)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1000)  # the interpreter will not take the GIL away from it
        loop.call_soon(in_threads, 1, work)
        try:
            loop.run_forever()
        finally:
            sys.setswitchinterval(interval)
        loop.remove_reader(near)
    assert turns < 100_000


def test_calls_before_the_run_are_kept(loop):
    ran = []
    for thread in in_threads(4, lambda number: loop.call_soon_threadsafe(ran.append, number)):
        thread.join()
    loop.stop()
    loop.run_forever()
    assert sorted(ran) == [0, 1, 2, 3]


def test_calls_between_two_runs_are_kept(loop):
    ran = []
    loop.run_until_complete(asyncio.sleep(0))
    in_threads(1, lambda _: loop.call_soon_threadsafe(ran.append, 1))[0].join()
    loop.run_until_complete(asyncio.sleep(0))
    assert ran == [1]


def test_the_context_of_the_calling_thread_is_captured(loop):
    variable = contextvars.ContextVar("variable", default="default")
    seen = []

    def caller(_):
        variable.set("thread")
        loop.call_soon_threadsafe(lambda: seen.append(variable.get()))
        loop.call_soon_threadsafe(loop.stop)

    in_threads(1, caller)
    loop.run_forever()
    assert seen == ["thread"]


def test_a_threadsafe_handle_can_be_cancelled_from_another_thread(loop):
    ran = []

    def caller(_):
        loop.call_soon_threadsafe(ran.append, 1).cancel()

    in_threads(1, caller)[0].join()
    loop.stop()
    loop.run_forever()
    assert ran == []


def test_a_closed_loop_refuses_a_call_from_any_thread(loop):
    loop.close()
    errors = []

    def caller(_):
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as exc:
            errors.append(str(exc))

    in_threads(1, caller)[0].join()
    assert errors == ["Event loop is closed"]


def test_calls_that_race_with_close_are_refused_or_dropped(new_loop):
    """Neither a crash nor any other error than the one of a closed loop."""
    for _ in range(30):
        loop = new_loop()
        unexpected = []
        begun = threading.Event()

        def caller(_, loop=loop, unexpected=unexpected, begun=begun):
            try:
                while True:
                    loop.call_soon_threadsafe(int)
                    begun.set()
            except RuntimeError as exc:
                if str(exc) != "Event loop is closed":
                    unexpected.append(exc)

        threads = in_threads(2, caller)
        begun.wait()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        for thread in threads:
            thread.join()
        assert unexpected == []


def test_loops_in_several_threads_are_each_the_current_one_of_theirs(new_loop):
    loops = [new_loop() for _ in range(4)]
    running = [LoopThread(loop) for loop in loops]
    for thread in running:
        thread.__enter__()
    try:
        assert [thread.call(asyncio.get_running_loop) for thread in running] == loops
        assert [thread.call(asyncio.get_event_loop) for thread in running] == loops
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
    finally:
        for thread in running:
            thread.__exit__()
        for loop in loops:
            loop.close()


def test_fifty_threads_make_run_and_close_loops_at_once(new_loop):
    results = []

    async def echo(number):
        async def serve(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"%d\n" % number)
            await asyncio.sleep(0.001)
            answer = await reader.read()
            writer.close()
        return int(answer)

    def work(number):
        for _ in range(3):
            loop = new_loop()
            try:
                results.append(loop.run_until_complete(echo(number)))
            finally:
                loop.close()

    threads = in_threads(50, work)
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted([*range(50)] * 3)


def test_loops_in_several_threads_call_each_other(new_loop):
    loops = [new_loop() for _ in range(3)]
    running = [LoopThread(loop) for loop in loops]
    hops = []
    finished = threading.Event()

    def hop(left):
        hops.append(threading.get_ident())
        if left:
            loops[left % 3].call_soon_threadsafe(hop, left - 1)
        else:
            finished.set()

    for thread in running:
        thread.__enter__()
    loops[0].call_soon_threadsafe(hop, 300)
    finished.wait()
    for thread in running:
        thread.__exit__()
    for loop in loops:
        loop.close()
    assert len(hops) == 301
    assert set(hops) == {thread.thread.ident for thread in running}


def test_run_coroutine_threadsafe_gives_the_result(loop):
    with LoopThread(loop):
        assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001, 5), loop).result() == 5


def test_run_coroutine_threadsafe_can_be_cancelled(loop):
    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    cancelled = threading.Event()
    with LoopThread(loop) as running:
        future = asyncio.run_coroutine_threadsafe(forever(), loop)
        running.call(int)  # the coroutine has begun
        future.cancel()
        cancelled.wait()


def test_stop_from_a_callback_of_another_thread_ends_the_run(loop):
    with LoopThread(loop) as running:
        loop.call_soon_threadsafe(loop.stop)
        running.thread.join()
    assert not loop.is_running()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="handles are safe to share between threads since 3.14")
def test_threadsafe_handles_are_cancelled_or_run_but_never_both(loop):
    ran = set()
    cancelled = set()

    def caller(_):
        for number in range(500):
            handle = loop.call_soon_threadsafe(ran.add, number)
            handle.cancel()
            if number not in ran:
                cancelled.add(number)
        loop.call_soon_threadsafe(loop.stop)

    threads = in_threads(1, caller)
    loop.run_forever()
    threads[0].join()
    assert ran | cancelled == set(range(500))
    assert not ran & cancelled


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="cancel() waits for the callback since 3.14")
def test_cancelling_from_another_thread_does_not_wait_before_3_14(loop):
    begun, cancelled = threading.Event(), threading.Event()
    seen = []

    def callback():
        begun.set()
        seen.append(cancelled.wait(20))
        loop.stop()

    def cancel():
        handle = loop.call_soon_threadsafe(callback)
        assert begun.wait(20)
        handle.cancel()
        assert handle.cancelled()
        cancelled.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    loop.run_forever()
    thread.join()
    assert seen == [True]


# --- the end of the interpreter -------------------------------------------------------------------

DAEMON = """
import asyncio, os, sys, threading
from support import wait_until_idle

at_work = threading.Event()
loop = new_event_loop()
loop.set_debug("debug" in sys.argv)

def work():
    at_work.set()
    if "busy" in sys.argv:
        while True:
            pass

class Working(asyncio.Protocol):
    def connection_made(self, transport):
        transport.get_extra_info("socket")  # keeps it
        loop.call_soon(transport.write, b"x")
    def data_received(self, data):
        work()

async def task():
    await asyncio.sleep(0)
    work()
    await asyncio.sleep(1000)

async def serve():
    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
        def data_received(self, data):
            self.transport.write(data)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    await loop.create_connection(Working, *server.sockets[0].getsockname())
    await asyncio.sleep(1000)

def main():
    asyncio.set_event_loop(loop)
    what = sys.argv[1]
    if what == "callback":
        loop.call_soon(work)
    elif what == "arguments":
        loop.call_soon(lambda *args: work(), 1, 2, 3, 4, 5)
    elif what == "timer":
        loop.call_later(0.001, work)
    elif what == "thread-safe":
        threading.Thread(target=loop.call_soon_threadsafe, args=(work,)).start()
    elif what == "factory":
        loop.create_task(loop.create_server(work, "127.0.0.1", 0)).add_done_callback(connect)
    elif what == "protocol":
        loop.create_task(serve())
    else:
        loop.create_task(task())
    loop.run_forever()

def connect(made):
    import socket
    loop.client = socket.create_connection(made.result().sockets[0].getsockname())

thread = threading.Thread(target=main, daemon=True)
thread.start()
at_work.wait()
if "idle" in sys.argv:
    # Not in the middle of what leads there.
    wait_until_idle(os.getpid(), thread.native_id)
"""


@pytest.mark.parametrize("debug", ["debug", "plain"])
@pytest.mark.parametrize("busy", ["busy", "idle"])
@pytest.mark.parametrize("what", ["callback", "arguments", "timer", "thread-safe", "task", "protocol", "factory"])
def test_the_interpreter_may_end_while_a_loop_runs_in_a_daemon_thread(loop_name, what, busy, debug):
    if (what, busy) == ("factory", "idle"):
        pytest.skip("a factory that makes nothing is an error")
    child = run_child(loop_name, DAEMON, what, busy, debug)
    assert child.stdout == ""
