"""Look-ups of names have threads of their own: what they do not hold back, and how they end."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import logging
import queue
import socket
import threading
import types
import warnings
import weakref

import pytest
import velodrome
from support import run_child
from velodrome import _resolver

# Only against hanging.
PATIENCE = 60

MOST_THREADS = 32


def resolver_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("velodrome-resolver_")]


def join_all(threads):
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    join_all(resolver_threads())


@pytest.fixture
def loop(new_loop, no_thread_is_left):
    reports = []
    with contextlib.closing(new_loop()) as loop:
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        yield loop
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_default_executor())
    assert not reports


class Blocked:
    """A `getaddrinfo` that answers when the test has released it, with what it was asked for."""

    def __init__(self):
        self.asked = []
        self.released = threading.Event()
        self._begun = queue.SimpleQueue()

    def __call__(self, host, port, *_):
        self.asked.append(host)
        self._begun.put(threading.current_thread())
        assert self.released.wait(PATIENCE)
        return [host]

    def wait_for(self, count):
        """The threads of the next look-ups to begin."""
        return [self._begun.get(timeout=PATIENCE) for _ in range(count)]


@pytest.fixture
def blocked(monkeypatch, no_thread_is_left):
    blocked = Blocked()
    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    yield blocked
    blocked.released.set()


@pytest.fixture
def answer(monkeypatch):
    """Makes the function with which `socket.getaddrinfo` is replaced."""
    return lambda function: monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_: function(host))


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setattr(_resolver, "_MOST_THREADS", 1)


def start(loop, *hosts):
    """A task for each look-up, in the middle of it."""
    tasks = [loop.create_task(loop.getaddrinfo(host, 80)) for host in hosts]
    run_once(loop)
    return tasks


def run_once(loop):
    loop.run_until_complete(asyncio.sleep(0))


def finish(loop, awaitables):
    async def gather():
        return await asyncio.gather(*awaitables)

    return loop.run_until_complete(gather())


def cancel(loop, *tasks):
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.wait(tasks))
    assert all(task.cancelled() for task in tasks)


# --- apart from the executor ----------------------------------------------------------------------


def test_500_blocked_look_ups_do_not_hold_back_the_executor(loop, blocked):
    hosts = [f"host-{number}" for number in range(500)]
    tasks = start(loop, *hosts)
    threads = blocked.wait_for(MOST_THREADS)
    assert loop.run_until_complete(loop.run_in_executor(None, threading.current_thread)) not in threads
    assert len(set(threads)) == len(blocked.asked) == MOST_THREADS
    blocked.released.set()
    assert finish(loop, tasks) == [[host] for host in hosts]
    assert set(blocked.wait_for(500 - MOST_THREADS)) <= set(threads)


def test_the_default_executor_is_not_used(loop):
    class Refusing(concurrent.futures.ThreadPoolExecutor):
        def submit(self, *_):
            raise AssertionError

    loop.set_default_executor(Refusing(1))
    assert loop.run_until_complete(loop.getaddrinfo("localhost", 80))
    assert loop.run_until_complete(loop.getnameinfo(("127.0.0.1", 80)))


def test_look_ups_go_on_after_the_executor_was_shut_down(loop):
    loop.run_until_complete(loop.shutdown_default_executor())
    assert loop.run_until_complete(loop.getaddrinfo("localhost", 80))


def test_a_connection_uses_them_too(loop, blocked):
    task = loop.create_task(loop.create_connection(asyncio.Protocol, "name", 80))
    run_once(loop)
    (thread,) = blocked.wait_for(1)
    assert thread in resolver_threads()
    cancel(loop, task)


def test_getnameinfo_uses_them_too(loop, monkeypatch):
    monkeypatch.setattr(socket, "getnameinfo", lambda address, flags: (threading.current_thread(), address, flags))
    thread, *arguments = loop.run_until_complete(loop.getnameinfo(("127.0.0.1", 80), 0))
    assert thread in resolver_threads()
    assert arguments == [("127.0.0.1", 80), 0]


# --- threads --------------------------------------------------------------------------------------


def test_threads_are_daemons_with_names(loop, blocked):
    tasks = start(loop, "one", "other")
    threads = blocked.wait_for(2)
    assert {thread.name for thread in threads} == {"velodrome-resolver_0", "velodrome-resolver_1"}
    assert all(thread.daemon for thread in threads)
    cancel(loop, *tasks)


def test_an_idle_thread_is_used_again(loop, answer):
    answer(lambda host: threading.get_ident())
    found = {loop.run_until_complete(loop.getaddrinfo("name", 80)) for _ in range(100)}
    assert len(found) == 1


def test_an_idle_thread_ends_and_another_takes_its_place(loop, answer, monkeypatch):
    monkeypatch.setattr(_resolver, "_IDLE_SECONDS", 0)
    answer(lambda host: threading.current_thread())
    for number in range(3):
        thread = loop.run_until_complete(loop.getaddrinfo("name", 80))
        assert thread.name == f"velodrome-resolver_{number}"
        join_all([thread])


@pytest.mark.parametrize("idle_seconds", [0, 0.0001, 0.001])
def test_no_look_up_is_lost_while_threads_come_and_go(loop, answer, monkeypatch, idle_seconds):
    monkeypatch.setattr(_resolver, "_IDLE_SECONDS", idle_seconds)
    answer(lambda host: host)

    async def ask(name):
        for number in range(50):
            assert await loop.getaddrinfo(f"{name}-{number}", 80) == f"{name}-{number}"

    finish(loop, [ask(f"name-{number}") for number in range(40)])


def test_closing_ends_idle_threads(loop, answer, monkeypatch):
    # They would wait for ever.
    monkeypatch.setattr(_resolver, "_IDLE_SECONDS", threading.TIMEOUT_MAX)
    before = set(threading.enumerate())
    meeting = threading.Barrier(5)
    answer(lambda host: meeting.wait(PATIENCE))
    finish(loop, [loop.getaddrinfo("name", 80) for _ in range(5)])
    threads = set(threading.enumerate()) - before
    assert len(threads) == 5
    loop.close()
    join_all(threads)
    assert set(threading.enumerate()) <= before


def test_each_loop_has_its_own(new_loop, answer):
    meeting = threading.Barrier(6)

    def look_up(host):
        meeting.wait(PATIENCE)
        return host, threading.current_thread()

    def run(name):
        with contextlib.closing(new_loop()) as loop:
            found.append((name, finish(loop, [loop.getaddrinfo(name, 80) for _ in range(2)])))

    answer(look_up)
    found = []
    threads = [threading.Thread(target=run, args=(f"name-{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    join_all(threads)
    assert sorted(name for name, _ in found) == ["name-0", "name-1", "name-2"]
    assert all(host == name for name, answers in found for host, _ in answers)
    assert len({thread for _, answers in found for _, thread in answers}) == 6


def no_more_threads(monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)


def test_an_error_says_that_no_thread_can_be_started(loop, answer, monkeypatch):
    answer(lambda host: host)
    with monkeypatch.context() as patch:
        no_more_threads(patch)
        for _ in range(MOST_THREADS + 1):
            with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
                loop.run_until_complete(loop.getaddrinfo("name", 80))
    assert loop.run_until_complete(loop.getaddrinfo("name", 80)) == "name"


def test_the_threads_that_there_are_do_it_if_no_more_can_be_started(loop, blocked, monkeypatch):
    tasks = start(loop, "first")
    blocked.wait_for(1)
    with monkeypatch.context() as patch:
        no_more_threads(patch)
        tasks += start(loop, "second", "third")
    blocked.released.set()
    assert finish(loop, tasks) == [["first"], ["second"], ["third"]]
    assert len(set(blocked.wait_for(2))) == 1


# --- order and cancellation -----------------------------------------------------------------------


def test_first_come_first_served(loop, blocked, one_thread):
    hosts = [f"host-{number}" for number in range(50)]
    tasks = start(loop, *hosts)
    blocked.released.set()
    finish(loop, tasks)
    assert blocked.asked == hosts


@pytest.mark.parametrize("later", [False, True])
def test_a_cancelled_look_up_that_waits_never_begins(loop, blocked, one_thread, later):
    first, second, third = start(loop, "first", "second", "third")
    blocked.wait_for(1)
    second.cancel()
    if later:
        run_once(loop)
    blocked.released.set()
    # Nothing runs in the loop until the thread has gone past it.
    blocked.wait_for(1)
    assert blocked.asked == ["first", "third"]
    loop.run_until_complete(asyncio.wait([first, second, third]))
    assert second.cancelled()
    assert third.result() == ["third"]


def test_the_result_of_a_cancelled_look_up_is_dropped(loop, blocked, one_thread):
    first, second = start(loop, "first", "second")
    blocked.wait_for(1)
    cancel(loop, first)
    blocked.released.set()
    assert loop.run_until_complete(second) == ["second"]
    assert blocked.asked == ["first", "second"]


def test_a_look_up_cancelled_while_its_result_arrives_stays_cancelled(blocked):
    class Telling(velodrome.Loop):
        def call_soon_threadsafe(self, *arguments, **options):
            handle = super().call_soon_threadsafe(*arguments, **options)
            arrived.set()
            return handle

    async def main():
        task = asyncio.ensure_future(loop.getaddrinfo("name", 80))
        await asyncio.sleep(0)
        blocked.released.set()
        assert arrived.wait(PATIENCE)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    arrived = threading.Event()
    reports = []
    with contextlib.closing(Telling()) as loop:
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        assert loop.run_until_complete(main())
    assert not reports


def test_a_look_up_that_took_too_long_is_cancelled(loop, blocked):
    with pytest.raises(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(loop.getaddrinfo("name", 80), 0.001))
    blocked.released.set()
    assert loop.run_until_complete(loop.getaddrinfo("other", 80)) == ["other"]


def test_a_coroutine_that_is_thrown_away_is_forgotten(loop, blocked, one_thread):
    (first,) = start(loop, "first")
    blocked.wait_for(1)
    coroutine = loop.getaddrinfo("second", 80)
    coroutine.send(None)
    coroutine.close()
    blocked.released.set()
    loop.run_until_complete(first)
    assert loop.run_until_complete(loop.getaddrinfo("third", 80)) == ["third"]
    assert blocked.asked == ["first", "third"]


# --- results --------------------------------------------------------------------------------------


class Odd(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long"), Odd(), SystemExit(3)]
    + [KeyboardInterrupt(), asyncio.CancelledError("by hand"), GeneratorExit()],
    ids=repr,
)
def test_what_is_raised_arrives_and_the_thread_goes_on(loop, answer, error):
    def fail(host):
        threads.append(threading.get_ident())
        raise error

    threads = []
    answer(fail)
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            loop.run_until_complete(loop.getaddrinfo("name", 80))
        assert caught.value.args == error.args
    assert len(set(threads)) == 1


def test_stop_iteration_arrives_as_a_runtime_error(loop, answer):
    answer(lambda host: next(iter(())))
    with pytest.raises(RuntimeError, match="^StopIteration interacts badly with generators") as caught:
        loop.run_until_complete(loop.getaddrinfo("name", 80))
    assert type(caught.value.__cause__) is StopIteration


def test_a_thread_goes_on_after_its_result_was_refused(answer, caplog):
    class Refusing(velodrome.Loop):
        def call_soon_threadsafe(self, *arguments, **options):
            if refused.is_set():
                return super().call_soon_threadsafe(*arguments, **options)
            refused.set()
            raise ZeroDivisionError

    answer(lambda host: threading.get_ident())
    refused = threading.Event()
    with contextlib.closing(Refusing()) as loop:
        (first,) = start(loop, "first")
        assert refused.wait(PATIENCE)
        loop.run_until_complete(loop.getaddrinfo("second", 80))
        cancel(loop, first)
    (record,) = caplog.records
    assert record.getMessage().startswith("The result of a look-up was refused by <Refusing ")
    assert record.exc_info[0] is ZeroDivisionError


def test_errors_of_executors_arrive_as_asyncios(loop, answer):
    def fail(host):
        raise concurrent.futures.CancelledError

    answer(fail)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(loop.getaddrinfo("name", 80))


def test_the_callers_context_is_the_callers(loop, answer):
    variable = contextvars.ContextVar("variable", default="nobody's")

    def look_up(host):
        seen = variable.get()
        variable.set(host)
        return seen

    async def ask(name):
        variable.set(f"the task's of {name}")
        assert await loop.getaddrinfo(name, 80) != f"the task's of {name}"
        assert variable.get() == f"the task's of {name}"

    # In threads there may be what an earlier look-up has left; so it is in asyncio's.
    answer(look_up)
    finish(loop, [ask("one"), ask("other")])
    assert variable.get() == "nobody's"


def test_asyncios_own_socket_module_may_be_replaced(loop, monkeypatch):
    replaced = types.SimpleNamespace(getaddrinfo=lambda *arguments: arguments, getnameinfo=lambda *arguments: arguments)
    monkeypatch.setattr(asyncio.base_events, "socket", replaced)
    assert loop.run_until_complete(loop.getaddrinfo("name", 80, type=1)) == ("name", 80, 0, 1, 0, 0)
    assert loop.run_until_complete(loop.getnameinfo(("name", 80))) == (("name", 80), 0)


def test_debug_mode_measures_in_the_thread(loop, answer, caplog):
    answer(lambda host: [host])
    caplog.set_level(logging.DEBUG, "asyncio")
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    loop.run_until_complete(loop.getaddrinfo("name", 80))
    texts = {record.levelname: record.getMessage() for record in caplog.records if record.threadName != "MainThread"}
    assert texts["DEBUG"] == "Get address info name:80"
    assert texts["INFO"].startswith("Getting address info name:80 took ")
    (name,) = {record.threadName for record in caplog.records if "address info" in record.getMessage()}
    assert name == "velodrome-resolver_0"


def test_a_closed_loop_looks_nothing_up(loop):
    loop.close()
    for coroutine in (loop.getaddrinfo("name", 80), loop.getnameinfo(("127.0.0.1", 80))):
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            coroutine.send(None)


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
