"""Look-ups of names that are under way when the loop closes, is forgotten, or the program ends."""

import asyncio
import contextlib
import gc
import queue
import threading
import warnings
import weakref

import pytest
import velodrome
from look_ups import PATIENCE, cancel, join_all, resolver_threads, start
from support import run_child

# --- closing --------------------------------------------------------------------------------------


def start_forgotten(loop, *hosts):
    """As `start`, for tasks that shall vanish in the middle of a look-up."""
    for task in start(loop, *hosts):
        task._log_destroy_pending = False


@pytest.fixture
def silence(capfd, caplog):
    """Nothing is printed, and nothing logged."""
    gc.collect()  # what earlier tests left may have something to say
    capfd.readouterr()
    yield
    assert capfd.readouterr().err == ""
    assert [record.getMessage() for record in caplog.get_records("call")] == []


@pytest.mark.parametrize("debug", [False, True])
def test_closing_does_not_wait_for_look_ups(loop, blocked, one_thread, debug, silence):
    loop.set_debug(debug)
    loop.slow_callback_duration = PATIENCE  # a slow machine is none of the matter
    start_forgotten(loop, "first", "second")
    (thread,) = blocked.wait_for(1)
    loop.close()
    assert thread.is_alive()
    blocked.released.set()
    join_all([thread])
    assert blocked.asked == ["first"]


def test_what_fails_after_the_loop_was_closed_is_dropped(loop, answer, silence):
    begun, released = threading.Event(), threading.Event()

    def fail(host):
        begun.set()
        assert released.wait(PATIENCE)
        raise ZeroDivisionError

    answer(fail)
    start_forgotten(loop, "name")
    assert begun.wait(PATIENCE)
    threads = resolver_threads()
    loop.close()
    released.set()
    join_all(threads)


def test_closing_while_results_arrive_is_quiet(new_loop, answer, silence):
    answer(lambda host: host)
    for _ in range(50):
        loop = new_loop()
        start_forgotten(loop, *(f"host-{number}" for number in range(10)))
        loop.close()
    join_all(resolver_threads())


def test_a_result_that_comes_just_after_closing_is_dropped(answer, silence):
    class Closing(velodrome.Loop):
        def call_soon_threadsafe(self, *arguments, **options):
            on_its_way.set()
            assert closed.wait(PATIENCE)
            return super().call_soon_threadsafe(*arguments, **options)

    on_its_way, closed = threading.Event(), threading.Event()
    answer(lambda host: host)
    with contextlib.closing(Closing()) as loop:
        start_forgotten(loop, "name")
        assert on_its_way.wait(PATIENCE)
    closed.set()
    join_all(resolver_threads())


def test_the_collector_may_close_a_loop_in_a_thread_that_has_its_lock(loop, answer):
    answer(lambda host: host)
    loop.run_until_complete(loop.getaddrinfo("name", 80))
    with loop._resolver._pool._changed:
        loop.close()


@pytest.fixture
def collector_off():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_closed_loop_is_freed_in_the_middle_of_a_look_up(new_loop, blocked, collector_off):
    loop = new_loop()
    cancel(loop, *start(loop, "name"))
    blocked.wait_for(1)
    gc.collect()  # 3.12 leaves a cycle behind a cancelled task, whatever it waited for
    loop.close()
    watched = weakref.ref(loop)
    del loop
    assert watched() is None


@pytest.mark.parametrize("state", ["idle", "busy", "waiting"])
def test_a_forgotten_loop_is_collected(new_loop, blocked, one_thread, state, collector_off):
    loop = new_loop()
    if state == "idle":
        blocked.released.set()
        loop.run_until_complete(loop.getaddrinfo("name", 80))
    else:
        start_forgotten(loop, *["first", "second"][: 1 + (state == "waiting")])
    (thread,) = blocked.wait_for(1)
    watched = weakref.ref(loop)
    with warnings.catch_warnings():
        # That nobody closed it.
        warnings.simplefilter("ignore", ResourceWarning)
        del loop
        if state != "idle":
            # The task that waits, and what it waits for.
            gc.collect()
    assert watched() is None
    blocked.released.set()
    join_all([thread])
    assert blocked.asked in (["name"], ["first"])


class Watched(Exception):
    def __init__(self, references):
        references.append(weakref.ref(self))


class WatchedStop(StopIteration):
    def __init__(self, references):
        references.append(weakref.ref(self))


@pytest.mark.parametrize("error", [Watched, WatchedStop])
def test_an_error_keeps_nothing_alive_that_keeps_it_alive(new_loop, answer, collector_off, error):
    def fail(host):
        raise error(references)

    async def main():
        with contextlib.suppress(Watched, RuntimeError):
            await loop.getaddrinfo("name", 80)

    references = []
    answer(fail)
    with contextlib.closing(new_loop()) as loop:
        loop.run_until_complete(main())
    join_all(resolver_threads())
    assert [reference() for reference in references] == [None]


class Name(str):
    """One that a weak reference can watch."""


def test_a_cancelled_look_up_that_waits_is_forgotten_at_once(loop, blocked, one_thread, collector_off):
    (first,) = start(loop, "first")
    blocked.wait_for(1)
    watched = []

    async def main():
        name = Name("second")
        watched.append(weakref.ref(name))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.getaddrinfo(name, 80), 0.001)

    loop.run_until_complete(main())
    gc.collect()
    assert watched[0]() is None
    blocked.released.set()
    loop.run_until_complete(first)


def test_an_idle_thread_keeps_neither_arguments_nor_result(loop, answer, monkeypatch, collector_off):
    waiting = queue.SimpleQueue()
    wait = threading.Condition.wait

    def tell_and_wait(condition, timeout=None):
        waiting.put(threading.current_thread())
        return wait(condition, timeout)

    answer(lambda host: host)
    monkeypatch.setattr(threading.Condition, "wait", tell_and_wait)
    watched = weakref.ref(loop.run_until_complete(loop.getaddrinfo(Name("name"), 80)))
    while waiting.get(timeout=PATIENCE) not in resolver_threads():
        pass
    assert watched() is None


# --- the end of the program -----------------------------------------------------------------------

PROLOGUE = """
import asyncio, os, socket, threading
begun = threading.Event()

def getaddrinfo(*_):
    begun.set()
    threading.Event().wait()

socket.getaddrinfo = getaddrinfo
"""


def run(loop_name, code, **options):
    child = run_child(loop_name, PROLOGUE + code, **options)
    assert child.stderr == ""
    return child.stdout.split()


@pytest.mark.parametrize("options", [[], ["-X", "dev"]], ids=["normal", "development"])
def test_the_end_of_asyncio_run_does_not_wait_for_look_ups(loop_name, options):
    code = """
async def main():
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 60  # a slow machine is none of the matter
    tasks = [loop.create_task(loop.getaddrinfo("name", 80)) for _ in range(40)]
    await asyncio.sleep(0)
    begun.wait()

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
print("closed", sum(thread.name.startswith("velodrome-resolver_") for thread in threading.enumerate()))
"""
    assert run(loop_name, code, options=options) == ["closed", "32"]


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_the_interpreter_exits_with_a_loop_that_is_open(loop_name, state):
    code = f"""
if {state == "idle"}:
    socket.getaddrinfo = lambda *_: begun.set()

async def main():
    global task
    task = asyncio.ensure_future(loop.getaddrinfo("name", 80))
    await asyncio.sleep(0)
    begun.wait()

loop = new_event_loop()
loop.run_until_complete(main())
task._log_destroy_pending = False
print("done")
"""
    assert run(loop_name, code, options=["-W", "ignore"]) == ["done"]


def test_the_child_of_a_fork_looks_names_up(loop_name):
    code = """
import sys

async def main():
    task = asyncio.ensure_future(loop.getaddrinfo("name", 80))
    await asyncio.sleep(0)
    begun.wait()
    task.cancel()

def child():
    socket.getaddrinfo = lambda host, *_: host
    new = new_event_loop()
    print("child", new.run_until_complete(new.getaddrinfo("name", 80)), flush=True)
    new.close()
    # Neither closing nor collecting what the parent left waits for a thread of the parent.
    loop.close()

loop = new_event_loop()
loop.run_until_complete(main())
held = threading.Event()

def hold():
    with loop._resolver._pool._changed:
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if pid == 0:
    child()
    os._exit(0)
print("parent", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
os._exit(0)
"""
    assert run(loop_name, code, options=["-W", "ignore"]) == ["child", "name", "parent", "0"]
