"""Look-ups of names: their order, how they are cancelled, and what they answer."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import socket
import threading
import types

import pytest
import velodrome
from look_ups import PATIENCE, cancel, finish, run_once, start

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
