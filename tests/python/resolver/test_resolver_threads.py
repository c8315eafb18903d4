"""Look-ups of names have threads of their own: what they do not hold back, and how many there are."""

import asyncio
import concurrent.futures
import contextlib
import socket
import threading

import pytest
from look_ups import MOST_THREADS, PATIENCE, cancel, finish, join_all, resolver_threads, run_once, start
from velodrome import _resolver

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
