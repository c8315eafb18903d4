"""Signals: the loop's own handlers, Python's, and Ctrl-C."""

import asyncio
import contextlib
import contextvars
import os
import signal
import sys
import threading

import pytest
from support import run_child, start_child, wait_until_idle


@pytest.fixture(autouse=True)
def signals_as_before():
    watched = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in watched}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    assert signal.set_wakeup_fd(-1) == -1


async def test_a_signal_runs_the_callback(loop):
    received = loop.create_future()
    assert loop.add_signal_handler(signal.SIGUSR1, received.set_result, "signal") is None
    os.kill(os.getpid(), signal.SIGUSR1)
    assert await received == "signal"
    assert loop.remove_signal_handler(signal.SIGUSR1) is True


async def test_the_callback_runs_in_the_loop_not_in_the_handler(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(asyncio.get_running_loop()))
    os.kill(os.getpid(), signal.SIGUSR1)
    assert seen == []
    while not seen:
        await asyncio.sleep(0.001)
    assert seen == [loop]
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_signal_wakes_an_idle_loop(loop):
    def send():
        wait_until_idle("self", threading.main_thread().native_id)
        os.kill(os.getpid(), signal.SIGUSR1)

    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    sender = threading.Thread(target=send)
    loop.call_soon(sender.start)
    loop.run_forever()
    sender.join()
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_signal_before_the_run_is_seen_in_the_run(loop):
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_each_signal_has_its_own_callback(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    loop.add_signal_handler(signal.SIGUSR2, seen.append, 2)
    os.kill(os.getpid(), signal.SIGUSR2)
    while 2 not in seen:
        await asyncio.sleep(0.001)
    os.kill(os.getpid(), signal.SIGUSR1)
    while 1 not in seen:
        await asyncio.sleep(0.001)
    assert seen == [2, 1]
    loop.remove_signal_handler(signal.SIGUSR1)
    assert loop.remove_signal_handler(signal.SIGUSR2) is True


async def test_a_second_callback_replaces_the_first(loop):
    seen = []
    received = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "first")
    loop.add_signal_handler(signal.SIGUSR1, received.set_result, "second")
    os.kill(os.getpid(), signal.SIGUSR1)
    assert await received == "second"
    assert seen == []
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


async def test_the_context_is_captured_at_registration(loop):
    variable = contextvars.ContextVar("variable", default="default")
    received = loop.create_future()
    token = variable.set("registered")
    loop.add_signal_handler(signal.SIGUSR1, lambda: received.set_result(variable.get()))
    variable.reset(token)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert await received == "registered"
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_an_exception_in_the_callback_is_reported(loop, reports):
    def fail():
        raise ZeroDivisionError

    loop.add_signal_handler(signal.SIGUSR1, fail)
    os.kill(os.getpid(), signal.SIGUSR1)
    while not reports:
        await asyncio.sleep(0.001)
    assert isinstance(reports.take()["exception"], ZeroDivisionError)
    loop.remove_signal_handler(signal.SIGUSR1)


def test_remove_restores_the_default_handler(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    assert signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN, None)
    loop.remove_signal_handler(signal.SIGUSR1)
    loop.remove_signal_handler(signal.SIGINT)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_remove_tells_whether_there_was_one(loop):
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    loop.add_signal_handler(signal.SIGUSR1, print)
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


def test_close_removes_the_handlers(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["SIGINT", 1.5, None])
def test_a_signal_is_a_number(loop, number):
    for use in (lambda: loop.add_signal_handler(number, print), lambda: loop.remove_signal_handler(number)):
        with pytest.raises(TypeError, match=f"^sig must be an int, not {number!r}$"):
            use()


@pytest.mark.parametrize("number", [0, -1, signal.NSIG, 1000])
def test_a_number_that_is_no_signal_is_refused(loop, number):
    for use in (lambda: loop.add_signal_handler(number, print), lambda: loop.remove_signal_handler(number)):
        with pytest.raises(ValueError, match=f"^invalid signal number {number}$"):
            use()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_signal_that_cannot_be_caught_is_refused(loop, number):
    with pytest.raises(RuntimeError, match="cannot be caught"):
        loop.add_signal_handler(number, print)
    assert loop.remove_signal_handler(number) is False


def test_a_coroutine_is_no_signal_handler(loop):
    async def coroutine_function():
        pass

    coroutine = coroutine_function()
    for callback in (coroutine, coroutine_function):
        with pytest.raises(TypeError, match=r"^coroutines cannot be used with add_signal_handler\(\)$"):
            loop.add_signal_handler(signal.SIGUSR1, callback)
    coroutine.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_only_the_main_thread_adds_signal_handlers(loop):
    errors = []

    def add():
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        except RuntimeError as exc:
            errors.append(str(exc))

    thread = threading.Thread(target=add)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert "main thread" in errors[0]


# --- Python's own signal handling -----------------------------------------------------------------


def test_a_loop_runs_in_a_main_thread_to_which_no_signals_come(new_loop, monkeypatch):
    """Where Python is embedded, `threading` takes the thread that imported it for the main one."""
    results = []

    def run():
        monkeypatch.setattr(threading, "_main_thread", threading.current_thread())
        with contextlib.closing(new_loop()) as loop:
            results.append(loop.run_until_complete(asyncio.sleep(0.001, "result")))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    monkeypatch.undo()
    assert results == ["result"]


def test_a_python_handler_runs_while_the_loop_is_idle(loop):
    seen = []

    def handler(number, frame):
        seen.append(number)
        loop.call_soon_threadsafe(loop.stop)

    def send():
        wait_until_idle("self", threading.main_thread().native_id)
        os.kill(os.getpid(), signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, handler)
    sender = threading.Thread(target=send)
    loop.call_soon(sender.start)
    loop.run_forever()
    sender.join()
    assert seen == [signal.SIGUSR1]


def test_a_python_handler_that_raises_leaves_an_idle_loop(loop):
    class Custom(Exception):
        pass

    def handler(number, frame):
        raise Custom

    def send():
        wait_until_idle("self", threading.main_thread().native_id)
        os.kill(os.getpid(), signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, handler)
    sender = threading.Thread(target=send)
    loop.call_soon(sender.start)
    with pytest.raises(Custom):
        loop.run_forever()
    sender.join()
    assert not loop.is_running()
    assert loop.run_until_complete(asyncio.sleep(0, "usable")) == "usable"


async def test_a_python_handler_runs_while_callbacks_are_busy(loop):
    seen = []
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    while not seen:
        await asyncio.sleep(0)
    assert seen == [signal.SIGUSR1]


def test_the_wakeup_descriptor_of_the_user_is_there_after_the_run(loop, socket_pair):
    one, _ = socket_pair
    signal.set_wakeup_fd(one.fileno(), warn_on_full_buffer=False)
    loop.run_until_complete(asyncio.sleep(0))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert signal.set_wakeup_fd(-1) == one.fileno()


def test_the_wakeup_descriptor_of_the_user_is_there_after_an_interrupt(loop, socket_pair):
    one, _ = socket_pair

    def interrupt():
        raise KeyboardInterrupt

    signal.set_wakeup_fd(one.fileno(), warn_on_full_buffer=False)
    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert signal.set_wakeup_fd(-1) == one.fileno()


async def run_awake():
    await asyncio.sleep(0)


async def run_asleep():
    await asyncio.sleep(0.001)


@pytest.mark.parametrize("before", [run_awake, run_asleep])
def test_the_wakeup_descriptor_of_the_user_hears_of_a_signal(loop, socket_pair, before):
    one, other = socket_pair

    async def main():
        await before()
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.001)

    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.set_wakeup_fd(one.fileno(), warn_on_full_buffer=False)
    loop.run_until_complete(main())
    assert signal.set_wakeup_fd(-1) == one.fileno()
    assert other.recv(10) == bytes([signal.SIGUSR1])


@pytest.mark.parametrize("own_handler", [False, True])
def test_the_wakeup_descriptor_of_the_user_hears_of_a_signal_in_the_last_turn(loop, socket_pair, own_handler):
    one, other = socket_pair
    seen = []

    def end():
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.stop()

    if own_handler:
        loop.add_signal_handler(signal.SIGUSR1, seen.append, "signal")
    else:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.set_wakeup_fd(one.fileno(), warn_on_full_buffer=False)
    loop.call_later(0.001, end)
    loop.run_forever()
    assert other.recv(10) == bytes([signal.SIGUSR1])
    assert seen == []
    if not own_handler:
        assert signal.set_wakeup_fd(-1) == one.fileno()
    else:
        loop.remove_signal_handler(signal.SIGUSR1)


def test_a_python_handler_that_runs_before_the_first_sleep_is_heard(loop):
    seen = []

    def handler(number, frame):
        seen.append(number)
        loop.call_soon(loop.stop)

    signal.signal(signal.SIGUSR1, handler)
    # Nothing else is called in Python between the signal and the sleep.
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.run_forever()
    assert seen == [signal.SIGUSR1]


def test_a_python_handler_that_raises_as_the_run_ends_leaves_no_wakeup_descriptor(loop):
    def end_in_a_signal():
        # None of these runs Python code, in which the handler would raise.
        loop.call_soon(signal.setitimer, signal.ITIMER_REAL, 0.001)
        loop.call_soon(sum, range(3_000_000))
        loop.call_soon(loop.stop)

    loop.call_later(0.001, end_in_a_signal)  # after a sleep
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert signal.set_wakeup_fd(-1) == -1
    assert sys.get_asyncgen_hooks() == (None, None)
    assert not loop.is_running()


def test_a_python_handler_that_raises_costs_no_other_signal(loop):
    seen = []

    def signals():
        # Both come while no Python code runs, and are found by the same look.
        loop.call_soon(signal.setitimer, signal.ITIMER_VIRTUAL, 0.001)
        loop.call_soon(signal.setitimer, signal.ITIMER_REAL, 0.001)
        loop.call_soon(sum, range(3_000_000))

    loop.add_signal_handler(signal.SIGVTALRM, seen.append, "loop's")
    loop.call_later(0.001, signals)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        loop.remove_signal_handler(signal.SIGVTALRM)
    assert seen == ["loop's"]


def test_no_wakeup_descriptor_stays_behind(new_loop):
    loop = new_loop()
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert signal.set_wakeup_fd(-1) == -1


async def test_a_signal_does_not_disturb_a_system_call_of_the_loop(loop, socket_pair):
    one, other = socket_pair
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    receiving = loop.create_task(loop.sock_recv(one, 10))
    for _ in range(20):
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.0005)
    other.send(b"whole")
    assert await receiving == b"whole"
    assert seen
    loop.remove_signal_handler(signal.SIGUSR1)


# --- Ctrl-C, in a child of its own ----------------------------------------------------------------


def interrupt_child(loop_name, code):
    """Run `code` until it prints "ready", interrupt it, and return what it printed then."""
    child = start_child(loop_name, code)
    with child:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 0, stderr
    return stdout.split()


IDLE = """
    loop = new_event_loop()
    loop.call_soon(print, "ready")
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        print("interrupted")
    print(loop.is_running())
    loop.close()
"""


def test_ctrl_c_ends_an_idle_loop(loop_name):
    assert interrupt_child(loop_name, IDLE) == ["interrupted", "False"]


def test_ctrl_c_ends_a_loop_that_waits_for_a_timer(loop_name):
    assert interrupt_child(loop_name, IDLE.replace("try:", "loop.call_later(1000, print)\n    try:", 1)) == [
        "interrupted",
        "False",
    ]


def test_ctrl_c_ends_a_callback_that_is_busy(loop_name):
    code = """
        loop = new_event_loop()
        def busy():
            print("ready")
            while True:
                pass
        loop.call_soon(busy)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted")
        loop.close()
    """
    assert interrupt_child(loop_name, code) == ["interrupted"]


# The two loops below are not closed: in CPython 3.14 an interrupt between two ticks can leave a stock loop "running".


def test_ctrl_c_ends_a_loop_whose_callbacks_never_cease(loop_name):
    code = """
        loop = new_event_loop()
        def again():
            loop.call_soon(again)
        loop.call_soon(print, "ready")
        loop.call_soon(again)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert interrupt_child(loop_name, code) == ["interrupted"]


def test_ctrl_c_ends_a_loop_whose_callbacks_run_no_python_code(loop_name):
    # The interpreter looks for signals between two steps of Python code; here only the loop itself can.
    code = """
        import functools
        loop = new_event_loop()
        again = functools.partial(loop.call_soon)
        again.__setstate__((loop.call_soon, (again,), {}, {}))  # again() is loop.call_soon(again)
        loop.call_soon(print, "ready")
        loop.call_soon(again)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert interrupt_child(loop_name, code) == ["interrupted"]


def test_a_runner_turns_ctrl_c_into_a_cancellation(loop_name):
    code = """
        import asyncio
        async def main():
            print("ready")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                print("cancelled")
                raise
            finally:
                await asyncio.sleep(0)
                print("cleaned")
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert interrupt_child(loop_name, code) == ["cancelled", "cleaned", "interrupted"]


def test_a_runner_interrupts_at_once_the_second_time(loop_name):
    code = """
        import asyncio, os, signal
        async def main():
            print("ready")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                print("cancelled")
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                await asyncio.sleep(0.01)
            print("not reached")
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert interrupt_child(loop_name, code) == ["cancelled", "interrupted"]


def test_a_main_that_ignores_the_cancellation_ends_normally(loop_name):
    code = """
        import asyncio
        async def main():
            print("ready")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "ended"
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            print(runner.run(main()))
    """
    assert interrupt_child(loop_name, code) == ["ended"]


def test_a_runner_leaves_pythons_handler_as_it_was(loop_name):
    code = """
        import asyncio, signal
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(asyncio.sleep(0))
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """
    assert run_child(loop_name, code).stdout == "True\n"


def test_an_interrupt_of_a_loop_in_another_thread_reaches_the_main_thread(loop_name):
    code = """
        import threading
        loop = new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            print("ready")
            threading.Event().wait()
        except KeyboardInterrupt:
            print("interrupted")
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    """
    assert interrupt_child(loop_name, code) == ["interrupted"]


def test_sigterm_stops_a_service_in_order(loop_name):
    code = """
        import asyncio, signal
        async def main():
            stopping = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, stopping.set)
            print("ready")
            await stopping.wait()
            print("stopped")
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
    """
    child = start_child(loop_name, code)
    with child:
        assert child.stdout.readline() == "ready\n"
        wait_until_idle(child.pid)
        child.terminate()
        stdout, stderr = child.communicate(timeout=60)
    assert (stdout, child.returncode) == ("stopped\n", 0), stderr


def test_a_wakeup_descriptor_set_and_closed_in_the_run_does_no_harm(loop, socket_pair):
    one, _ = socket_pair

    async def main():
        signal.set_wakeup_fd(one.fileno(), warn_on_full_buffer=False)
        one.close()
        return "result"

    try:
        assert loop.run_until_complete(main()) == "result"
    finally:
        with contextlib.suppress(ValueError, OSError):
            signal.set_wakeup_fd(-1)


@pytest.mark.differs("asyncio takes the descriptor away")
async def test_a_signal_that_cannot_be_caught_leaves_the_wakeup_descriptor(loop):
    with pytest.raises(RuntimeError, match="cannot be caught"):
        loop.add_signal_handler(signal.SIGKILL, print)
    fd = signal.set_wakeup_fd(-1)
    if fd != -1:
        signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    assert fd != -1
