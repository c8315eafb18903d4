"""Debug mode: what asyncio checks and tells only there."""

import asyncio
import contextlib
import re
import socket
import sys
import threading

import pytest
import velodrome
from checker import polled
from support import run_child


@pytest.fixture
def loop(loop):
    loop.set_debug(True)
    return loop


def in_thread(function):
    errors = []

    def target():
        try:
            function()
        except Exception as exc:
            errors.append(exc)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return errors


async def coroutine_function():
    pass


def fail():
    raise ZeroDivisionError


def test_debug_is_off_by_default(new_loop):
    loop = new_loop()
    assert loop.get_debug() is bool(sys.flags.dev_mode)
    loop.close()


def test_set_debug_is_seen_by_get_debug(loop):
    assert loop.get_debug() is True
    loop.set_debug(False)
    assert loop.get_debug() is False


def test_repr_tells_that_debug_is_on(loop):
    assert "debug=True" in repr(loop)


SHOW_DEBUG = "loop = new_event_loop()\nprint(loop.get_debug())\nloop.close()"


def test_the_environment_turns_debug_on(loop_name):
    assert run_child(loop_name, SHOW_DEBUG, env={"PYTHONASYNCIODEBUG": "1"}).stdout == "True\n"


def test_dev_mode_turns_debug_on(loop_name):
    assert run_child(loop_name, SHOW_DEBUG, options=["-X", "dev"]).stdout == "True\n"


def test_an_empty_variable_leaves_debug_off(loop_name):
    assert run_child(loop_name, SHOW_DEBUG, env={"PYTHONASYNCIODEBUG": ""}).stdout == "False\n"


def test_a_runner_can_turn_debug_on(new_loop):
    async def debug():
        return asyncio.get_running_loop().get_debug()

    with asyncio.Runner(debug=True, loop_factory=new_loop) as runner:
        assert runner.run(debug()) is True


# --- slow callbacks -------------------------------------------------------------------------------


def test_a_tenth_of_a_second_is_slow(loop):
    assert loop.slow_callback_duration == 0.1


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_slow_callback_is_named_with_its_duration(loop, caplog):
    loop.slow_callback_duration = 0

    def slow():
        loop.stop()

    loop.call_soon(slow)
    loop.run_forever()
    (message,) = messages(caplog)
    assert message.startswith("Executing <Handle ")
    assert "slow()" in message
    assert "test_debug.py:" in message
    assert message.split(" took ")[1].endswith(" seconds")
    assert float(message.split(" took ")[1].split()[0]) >= 0


def test_a_slow_timer_is_named(loop, caplog):
    loop.slow_callback_duration = 0

    def slow():
        loop.stop()

    loop.call_later(0, slow)
    loop.run_forever()
    (message,) = messages(caplog)
    assert message.startswith("Executing <TimerHandle ")
    assert "slow()" in message


def test_a_slow_task_is_named_as_a_task(loop, caplog):
    async def slow():
        loop.slow_callback_duration = 0

    loop.slow_callback_duration = 1000
    loop.run_until_complete(loop.create_task(slow(), name="the slow one"))
    assert messages(caplog)[0].startswith("Executing <Task ")
    assert "name='the slow one'" in messages(caplog)[0]


def test_a_callback_that_is_quick_enough_is_not_named(loop, caplog):
    loop.slow_callback_duration = 1000
    loop.run_until_complete(asyncio.sleep(0))
    assert messages(caplog) == []


def test_without_debug_nothing_is_slow(loop, caplog):
    loop.set_debug(False)
    loop.slow_callback_duration = 0
    loop.run_until_complete(asyncio.sleep(0))
    assert messages(caplog) == []


# --- calls from the wrong thread ------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda loop: loop.call_soon(print),
        lambda loop: loop.call_later(1, print),
        lambda loop: loop.call_at(1, print),
    ],
    ids=["call_soon", "call_later", "call_at"],
)
def test_a_call_from_another_thread_is_caught(loop, call):
    async def main():
        return in_thread(lambda: call(loop))

    (error,) = loop.run_until_complete(main())
    assert isinstance(error, RuntimeError)
    assert str(error) == "Non-thread-safe operation invoked on an event loop other than the current one"


def test_call_soon_threadsafe_from_another_thread_is_right(loop):
    async def main():
        called = loop.create_future()
        errors = in_thread(lambda: loop.call_soon_threadsafe(called.set_result, 1))
        return errors, await called

    assert loop.run_until_complete(main()) == ([], 1)


def test_a_loop_that_does_not_run_belongs_to_nobody(loop):
    assert in_thread(lambda: loop.call_soon(lambda: None)) == []
    loop.run_until_complete(asyncio.sleep(0))


# --- callbacks that are none ----------------------------------------------------------------------


def refusing(loop):
    return {
        "call_soon": loop.call_soon,
        "call_soon_threadsafe": loop.call_soon_threadsafe,
        "call_at": lambda callback: loop.call_at(1, callback),
        "run_in_executor": lambda callback: loop.run_in_executor(None, callback),
    }


METHODS = ("call_soon", "call_soon_threadsafe", "call_at", "run_in_executor")


@pytest.mark.parametrize("method", METHODS)
def test_a_coroutine_is_no_callback(loop, method):
    coroutine = coroutine_function()
    for callback in (coroutine, coroutine_function):
        with pytest.raises(TypeError, match=rf"^coroutines cannot be used with {method}\(\)$"):
            refusing(loop)[method](callback)
    coroutine.close()


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_called_is_refused(loop, method):
    with pytest.raises(TypeError, match=rf"^a callable object was expected by {method}\(\), got 'text'$"):
        refusing(loop)[method]("text")


def test_call_later_refuses_the_same(loop):
    with pytest.raises(TypeError, match="a callable object was expected by call_at"):
        loop.call_later(1, "text")
    with pytest.raises(TypeError, match="coroutines cannot be used with call_at"):
        loop.call_later(1, coroutine_function)


# --- where things were created --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_the_report_tells_where_the_callback_was_registered(loop, reports, method):
    def registering_function():
        times = {"call_later": [0], "call_at": [0]}
        getattr(loop, method)(*times.get(method, []), fail)

    registering_function()
    loop.stop()
    loop.run_forever()
    context = reports.take()
    assert context["source_traceback"][-1].name == "registering_function"


def test_repr_tells_where_a_handle_was_created(loop):
    handle = loop.call_soon(print)
    assert "created at " in repr(handle)
    assert "test_debug.py:" in repr(handle).split("created at ")[1]
    handle.cancel()


def test_repr_of_a_cancelled_handle_remembers_the_callback(loop):
    handle = loop.call_soon(fail, "argument")
    handle.cancel()
    assert "cancelled" in repr(handle)
    assert "fail(" in repr(handle)


def test_repr_shows_the_arguments(loop):
    handle = loop.call_soon(fail, "argument")
    assert "fail('argument')" in repr(handle)
    handle.cancel()


def test_a_task_remembers_where_it_was_created(loop, reports):
    async def failing():
        raise ZeroDivisionError

    def creating_function():
        return loop.create_task(failing())

    async def main():
        creating_function()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert reports.take()["source_traceback"][-1].name == "creating_function"


def test_a_future_remembers_where_it_was_created(loop, reports):
    def creating_function():
        return loop.create_future()

    creating_function().set_exception(ZeroDivisionError())
    assert "creating_function" in [frame.name for frame in reports.take()["source_traceback"][-2:]]


def test_the_default_handler_shows_where_the_running_handle_was_created(loop, caplog):
    loop.set_exception_handler(None)
    loop.slow_callback_duration = 1000

    def reporting():
        loop.call_exception_handler({"message": "reported"})

    def registering_function():
        loop.call_soon(reporting)

    registering_function()
    loop.stop()
    loop.run_forever()
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "Handle created at (most recent call last):" in record.getMessage()
    assert "registering_function" in record.getMessage()


# --- coroutine origin tracking --------------------------------------------------------------------


async def origin_depth():
    return sys.get_coroutine_origin_tracking_depth()


def test_coroutine_origins_are_tracked_during_the_run_only(loop):
    before = sys.get_coroutine_origin_tracking_depth()
    assert loop.run_until_complete(origin_depth()) > 0
    assert sys.get_coroutine_origin_tracking_depth() == before


def test_the_users_origin_tracking_is_restored(loop):
    before = sys.get_coroutine_origin_tracking_depth()
    sys.set_coroutine_origin_tracking_depth(3)
    try:
        loop.run_until_complete(asyncio.sleep(0))
        assert sys.get_coroutine_origin_tracking_depth() == 3
    finally:
        sys.set_coroutine_origin_tracking_depth(before)


def test_origin_tracking_is_restored_after_an_interrupt(loop):
    before = sys.get_coroutine_origin_tracking_depth()

    def interrupt():
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert sys.get_coroutine_origin_tracking_depth() == before


def test_debug_can_be_turned_on_and_off_during_the_run(loop):
    loop.set_debug(False)

    async def main():
        depths = []
        for debug in (True, False, True):
            loop.set_debug(debug)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            depths.append(await origin_depth() > 0)
        return depths

    before = sys.get_coroutine_origin_tracking_depth()
    assert loop.run_until_complete(main()) == [True, False, True]
    assert sys.get_coroutine_origin_tracking_depth() == before


def test_a_timer_of_a_programs_own_class_may_use_the_loop(loop, monkeypatch):
    seen = []

    class Timer(asyncio.TimerHandle):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "_scheduled":
                loop.call_soon(seen.append, value)

    for module in (asyncio, asyncio.events):
        monkeypatch.setattr(module, "TimerHandle", Timer)
    loop.call_later(0.001, seen.append, "ran")
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert "ran" in seen
    assert False in seen[seen.index("ran") :]


def test_debug_turned_on_during_the_run_is_complete_at_once(loop, caplog):
    loop.set_debug(False)
    loop.slow_callback_duration = 0

    async def main():
        loop.set_debug(True)
        with pytest.raises(TypeError):
            loop.call_soon("text")
        errors = in_thread(lambda: loop.call_soon(print))
        await asyncio.sleep(0)
        loop.call_soon(int)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        loop.set_debug(False)
        return errors

    (error,) = loop.run_until_complete(main())
    assert isinstance(error, RuntimeError)
    assert any(message.startswith("Executing <Handle int") for message in messages(caplog))


def test_streams_work_in_debug_mode(loop):
    loop.slow_callback_duration = 1000

    async def echo(reader, writer):
        writer.write(await reader.read(100))
        writer.close()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"debug")
        assert await reader.read() == b"debug"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


def failing_protocol(base, method):
    class Failing(base):
        pass

    def fail(self, *args):
        raise ZeroDivisionError(method)

    setattr(Failing, method, fail)
    return Failing


@pytest.mark.parametrize("method", ["connection_made", "data_received", "datagram_received", "__init__"])
def test_what_a_protocol_raises_is_told_in_debug_mode(loop, method, caplog):
    if method == "__init__" and not isinstance(loop, velodrome.Loop):
        pytest.skip("asyncio leaves such a connection open")
    loop.set_exception_handler(None)
    base = asyncio.DatagramProtocol if method == "datagram_received" else asyncio.Protocol

    async def main():
        factory = failing_protocol(base, method)
        with contextlib.ExitStack() as stack:
            if base is asyncio.DatagramProtocol:
                transport, _ = await loop.create_datagram_endpoint(factory, local_addr=("127.0.0.1", 0))
                client = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                client.sendto(b"x", transport.get_extra_info("sockname"))
                stack.callback(transport.close)
            else:
                server = await loop.create_server(factory, "127.0.0.1", 0)
                client = stack.enter_context(socket.create_connection(server.sockets[0].getsockname()))
                client.send(b"x")
                stack.callback(server.close)
            while not any(record.exc_info for record in caplog.records):
                await asyncio.sleep(0)
        await polled(loop)  # a connection that stays hears that its client is gone

    loop.run_until_complete(main())
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info[0] is ZeroDivisionError
    assert record.exc_info[1].args == (method,)


def test_a_slow_protocol_is_named_by_its_transport(loop, caplog, socket_pair):
    one, other = socket_pair
    loop.slow_callback_duration = 0

    async def main():
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
        other.send(b"x")
        while not any("Transport" in message for message in messages(caplog)):
            await asyncio.sleep(0)
        transport.close()
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    named = [message for message in messages(caplog) if "Transport" in message]
    assert all(re.fullmatch(r"Executing <.*> took 0.\d{3} seconds", name) for name in named)
